"""Kind clip_seg: CLIPSeg (Lüddecke and Ecker, CVPR 2022), a decoder on CLIP trained to segment phrases (docs/methods.md).

Its training set is PhraseCut: what it finds there is no zero-shot result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.heat_maps.model_folder import LIBRARIES, ModelSettings, model_files
from stages.heat_maps.registry import HEAT_MAPS, Asked, Heat, HeatMapKind, Maker, Opening
from store.errors import DataError, ParameterError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from stages.heat_maps.transformers_model import Model


class Settings(ModelSettings):
    """The model, its text and what is kept of a map."""

    model: str = Field("clipseg-rd64-refined", description="the model's folder below heat.folder", exclude=True)
    text: Literal["phrase", "sentence"] = Field(
        "sentence", description="the whole sentence, or the noun phrase of its target"
    )
    block: int = Field(
        4, ge=1, le=64, description="pixels a side of the squares of the input whose means are kept; 1 keeps all"
    )


def files(folder: Path, settings: Settings) -> dict[str, Path]:
    """The files of the model."""
    return model_files(folder, settings, "clip_seg", "clipseg")


def opened(opening: Opening) -> Maker:
    """Maps of one image's phrases: one pass of the image encoder, and for each phrase one of the decoder."""
    import torch

    from stages.heat_maps.transformers_model import Model

    settings = opening.settings
    model = Model(files(opening.folder, settings), "CLIPSeg", "CLIPSegForImageSegmentation", opening.device)
    _require_square(model)

    def maps(image: Image | None, asked: Sequence[Asked]) -> list[Heat | DataError]:
        assert image is not None
        with torch.inference_mode():
            seen = activations(model, image)
            return [heat_of(model, seen, settings.prompts(each), settings.block) for each in asked]

    with torch.inference_mode():
        model.tried(lambda image, text: heat_of(model, activations(model, image), (text,), settings.block))
    return maps


def _require_square(model: Model) -> None:
    """The decoder takes its patches for a square grid that covers the input."""
    (height, width), patch = model.pixels.size, model.net.config.vision_config.patch_size
    if height != width or type(patch) is not int or height % patch:
        raise ParameterError(
            f"heat.maps: clip_seg needs pictures of whole square patches, the model's preprocessor makes {height} x {width} "
            f"pixels and its patches have {patch}; give such a size in its preprocessor config"
        )


def activations(model: Model, image: Image) -> list[Tensor]:
    """What the decoder reads of an image: the states after each of the config's ``extract_layers``, (1, 1 + P, width)."""
    found = model.net.clip.vision_model(model.entered(image), output_hidden_states=True)
    return [found.hidden_states[layer + 1] for layer in model.net.extract_layers]


def heat_of(model: Model, seen: list[Tensor], prompts: Sequence[str], block: int) -> Heat:
    """The map: the means over squares of the sigmoids of the logits, float32 (rows, columns), 0 to 1.

    Several prompts count by the mean of their vectors.
    """
    import torch

    vector = torch.stack([model.vector(prompt) for prompt in prompts]).mean(0)
    shares = model.net.decoder(seen, vector).logits.sigmoid()
    if any(side % block for side in shares.shape[-2:]):
        raise ParameterError(
            f"heat.settings.clip_seg.block: expected a divisor of the map's {' x '.join(map(str, shares.shape[-2:]))} pixels, "
            f"got {block}"
        )
    heat: Heat = torch.nn.functional.avg_pool2d(shares[None], block)[0, 0].cpu().numpy()
    return heat


HEAT_MAPS.add(
    HeatMapKind(
        module=__name__,
        name="clip_seg",
        meaning="CLIPSeg: a decoder on CLIP's image encoder, steered by the text; trained on PhraseCut",
        open=opened,
        settings=Settings,
        encodes=False,
        files=files,
        libraries=LIBRARIES,
        trained_on="PhraseCut",
        map_bytes=31_000,
        cost="one forward pass per image, one pass of a small decoder per phrase of it",
    )
)
