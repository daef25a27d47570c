"""Kind group_vit: GroupViT (Xu et al., CVPR 2022), groups of patches learnt from captions (docs/methods.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from stages.heat_maps.model_folder import LIBRARIES, ModelSettings, model_files
from stages.heat_maps.registry import HEAT_MAPS, Asked, Heat, HeatMapKind, Maker, Opening
from stages.text.template import Template
from store.errors import DataError, WeightsError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from stages.heat_maps.transformers_model import Model


class Settings(ModelSettings):
    """The model and its text."""

    model: str = Field("groupvit-gcc-yfcc", description="the model's folder below heat.folder", exclude=True)
    text: Literal["phrase", "sentence"] = Field("phrase", description="its noun phrase, or the whole sentence")
    template: Template = Field("a photo of a {}.", description="prompt around the text")


class Groups(NamedTuple):
    """What an image has for any text.

    Attributes:
        shares: of each patch in each group, float32 (P, G), rows sum to 1. vectors: unit, of each group, (G, D).
        grid: rows and columns of the patches.
    """

    shares: Tensor
    vectors: Tensor
    grid: tuple[int, int]


def files(folder: Path, settings: Settings) -> dict[str, Path]:
    """The files of the model."""
    return model_files(folder, settings, "group_vit", "groupvit")


def opened(opening: Opening) -> Maker:
    """Maps of one image's phrases: one forward pass, and for each phrase as many products as there are groups."""
    import torch

    from stages.heat_maps.transformers_model import Model

    settings, source = opening.settings, files(opening.folder, opening.settings)
    model = Model(source, "GroupViT", "GroupViTModel", opening.device)
    side = model.net.config.vision_config.image_size
    if model.pixels.size != (side, side):
        raise WeightsError(
            f"{source['pixels']}: expected pictures of {side} x {side} pixels, the model's image_size, got "
            f"{' x '.join(map(str, model.pixels.size))}; give the files of one model"
        )

    def maps(image: Image | None, asked: Sequence[Asked]) -> list[Heat | DataError]:
        assert image is not None
        with torch.inference_mode():
            groups = groups_of(model, image)
            return [heat_of(model, groups, settings.prompts(each)) for each in asked]

    with torch.inference_mode():
        model.tried(lambda image, text: heat_of(model, groups_of(model, image), (text,)))
    return maps


def groups_of(model: Model, image: Image) -> Groups:
    """The groups of an image: one forward pass."""
    pixels = model.entered(image)
    found = model.net.vision_model(pixels, output_attentions=True)
    shares, *later = (stage[0].T for stage in found.attentions)
    for stage in later:  # (P, G_1), (G_1, G_2), ...: the share of a patch in a group of groups
        shares = shares @ stage
    vectors = model.net.visual_projection(found.last_hidden_state[0])
    patch = model.net.config.vision_config.patch_size
    return Groups(shares, _unit(vectors), (pixels.shape[2] // patch, pixels.shape[3] // patch))


def heat_of(model: Model, groups: Groups, prompts: Sequence[str]) -> Heat:
    """The map: of each patch the mean cosine of its groups with the text, weighted by its shares in them; float32 (rows,
    columns). Several prompts count by the mean of their unit vectors."""
    import torch

    text = _unit(torch.cat([_unit(model.vector(prompt)) for prompt in prompts]).mean(0))
    heat: Heat = (groups.shares @ (groups.vectors @ text)).reshape(groups.grid).cpu().numpy()
    return heat


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


HEAT_MAPS.add(
    HeatMapKind(
        module=__name__,
        name="group_vit",
        meaning="GroupViT: the cosine of the text with the groups that a patch belongs to",
        open=opened,
        settings=Settings,
        encodes=False,
        files=files,
        libraries=LIBRARIES,
        map_bytes=784,
        cost="one forward pass per image, eight products per phrase of it",
    )
)
