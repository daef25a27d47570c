"""FreeSOLO: one image in, ranked mask proposals out (arXiv 2202.12181; network and decoding of SOLOv2, 2003.10152).

`FreeSolo.propose` is `preprocess`, `forward`, `decode`: they stand apart so that a caller may batch or overlap them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stages.clip.state_dict import read_state_dict
from stages.device.precision import Precision, torch_dtype
from stages.device.transfer import to_device
from stages.proposals.boxes import BoxRule
from stages.proposals.decode import Sizes, decode, mask_boxes
from stages.proposals.inference import optimised
from stages.proposals.items import Proposals
from stages.proposals.network import GRIDS, RawOutput, SoloNetwork, expected_keys, read_architecture
from stages.proposals.settings import PRECISION, RELEASED, SHORT_SIDE, DecodeSettings
from store.errors import ParameterError, WeightsError

SIZE_MULTIPLE = 32  # the coarsest feature's stride
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What a checkpoint may hold besides the weights: FreeSOLO's embedding head, detectron2's input statistics, counters.
_EXTRA_PREFIXES = ("ins_head.emb_pred.", "pixel_mean", "pixel_std")
_EXTRA_SUFFIXES = (".num_batches_tracked",)
_EXTRA_KEYS = ("_iter", "iteration")


class FreeSolo:
    """A network and how its outputs are decoded. Device and dtype are the network's."""

    def __init__(
        self, network: SoloNetwork, *, short_side: int = SHORT_SIDE, settings: DecodeSettings | None = None
    ) -> None:
        settings = settings or RELEASED
        if short_side < 1:
            raise ParameterError(f"short_side: expected at least 1 pixel, got {short_side}")
        if len(settings.strides) != len(network.ins_head.grids):
            raise ParameterError(f"strides: expected {len(network.ins_head.grids)}, got {list(settings.strides)}")
        self.network = network
        self.short_side = short_side
        self.settings = settings

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, object],
        *,
        short_side: int = SHORT_SIDE,
        box: BoxRule = RELEASED.box,
        score_threshold: float = RELEASED.score_threshold,
        update_threshold: float = RELEASED.update_threshold,
        max_candidates: int = RELEASED.max_candidates,
        max_proposals: int = RELEASED.max_proposals,
        grids: Sequence[int] = GRIDS,
        strides: Sequence[int] = RELEASED.strides,
        precision: Precision = PRECISION,
        device: torch.device | str = "cpu",
    ) -> "FreeSolo":
        """An `optimised` network from detectron2's key names; its architecture is read off the shapes.

        `precision` is the network's; decoding is in float32 whatever it is. To train, or for the network without
        these changes, take `load_network`.

        A `model` wrapper is opened; counters, the embedding head and metadata are ignored. Values are copied.
        `grids` and `strides`, one per level from the finest on, cannot be read off the weights.

        Raises:
            WeightsError: missing or unexpected keys, or wrong shapes; with their names. ParameterError: a bad setting.
        """
        settings = DecodeSettings(score_threshold, update_threshold, max_candidates, max_proposals, box, tuple(strides))
        network = optimised(load_network(state_dict, grids), device, torch_dtype(precision))
        return cls(network, short_side=short_side, settings=settings)

    @classmethod
    def from_file(cls, weights: Path, **options: Any) -> "FreeSolo":
        """`from_state_dict` of a weights file of any form that `read_state_dict` reads, with the same options.

        Raises:
            WeightsError: names the file; see both. ParameterError: a bad setting.
        """
        state_dict = read_state_dict(weights)
        try:
            return cls.from_state_dict(state_dict, **options)
        except WeightsError as error:
            raise WeightsError(f"{weights}: {error}; give FreeSOLO's weights with detectron2's names") from error

    def propose(self, image: Image.Image) -> Proposals:
        """Proposals of one PIL image (converted to RGB)."""
        return self.propose_shrunk(self.shrink(image), (image.height, image.width))

    def propose_shrunk(self, shrunk: npt.NDArray[np.uint8], original: tuple[int, int]) -> Proposals:
        """`propose` of what `shrink` made of an image of size `original` (H, W)."""
        pixels = _normalised(shrunk)
        raw = self.forward(padded(pixels)[None])
        return self.decode(raw, 0, (pixels.shape[1], pixels.shape[2]), original)

    def preprocess(self, image: Image.Image) -> Tensor:
        """The released input, float32 (3, h, w) on the CPU: short side resized (PIL bilinear), ImageNet-normalised."""
        return _normalised(self.shrink(image))

    def shrink(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The part of `preprocess` that other threads may prefetch: decode and resize, uint8 RGB (h, w, 3), no torch."""
        rgb = image.convert("RGB")
        return np.array(rgb.resize(resized_size(rgb.size, self.short_side), Image.Resampling.BILINEAR))

    @torch.no_grad()
    def forward(self, batch: Tensor) -> RawOutput:
        """Padded inputs (B, 3, h, w), sides multiples of 32 -> raw outputs on the network's device and in its dtype."""
        weight = self.network.backbone.bottom_up.stem.conv1.weight
        raw: RawOutput = self.network(to_device(batch, weight.device).to(weight.dtype))
        return raw

    @torch.no_grad()
    def decode(self, raw: RawOutput, index: int, resized: tuple[int, int], original: tuple[int, int]) -> Proposals:
        """Proposals of one image of a batch; `resized` (h, w): its unpadded input, `original` (H, W): its masks.

        Raises ParameterError where half precision overflowed.
        """
        height, width = raw.mask_features.shape[-2:]
        sizes = Sizes((4 * height, 4 * width), resized, original)
        logits = [_at_least_float32(level[index]) for level in raw.category_logits]
        kernels = [_at_least_float32(level[index]) for level in raw.kernels]
        features = _at_least_float32(raw.mask_features[index])
        if features.dtype != raw.mask_features.dtype and not all(map(_finite, (*logits, *kernels, features))):
            raise ParameterError(
                f"precision: expected finite outputs of the network, got infinite ones in {raw.mask_features.dtype}; "
                "take bf16 or float32"
            )
        masks, scores = decode(logits, kernels, features, sizes, self.settings)
        boxes = mask_boxes(masks, self.settings.box)
        return Proposals(masks.cpu().numpy(), boxes.cpu().numpy(), scores.float().cpu().numpy())


def resized_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(width, height) with the short side at `short_side` and the long one rounded down, without any cap."""
    width, height = size
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def padded(pixels: Tensor) -> Tensor:
    """(3, h, w) with zeros at the bottom and right up to multiples of 32."""
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE))


def load_network(state_dict: Mapping[str, object], grids: Sequence[int] = GRIDS) -> SoloNetwork:
    """The network of `FreeSolo.from_state_dict`, in eval mode; `.train()` makes it learn."""
    if len(grids) != len(GRIDS) or min(grids) < 1:
        raise ParameterError(f"grids: expected {len(GRIDS)} positive cell counts, got {list(grids)}")
    weights = _weights(state_dict)
    architecture = read_architecture({key: tuple(value.shape) for key, value in weights.items()})
    with torch.device("meta"):  # no time for random values that are overwritten
        network = SoloNetwork(architecture, grids)
    expected = dict(expected_keys(network))
    _check_keys(weights, expected)
    network.to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        if name.endswith(".num_batches_tracked"):
            buffer.zero_()
    network.load_state_dict(weights, strict=False)  # the keys are checked, the counters above are not in `weights`
    return network.eval()


def _weights(state_dict: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of the network among all that a checkpoint may hold."""
    wrapped = state_dict.get("model")
    entries = wrapped if isinstance(wrapped, Mapping) else state_dict
    weights: dict[str, Tensor] = {}
    for key, value in entries.items():
        if key in _EXTRA_KEYS or key.startswith(_EXTRA_PREFIXES) or key.endswith(_EXTRA_SUFFIXES):
            continue
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if isinstance(value, Tensor):
            weights[key] = value
        elif key.startswith(("backbone.", "ins_head.", "mask_head.")):
            raise WeightsError(f"{key}: expected a tensor, got {type(value).__name__}")
    return weights


def _check_keys(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = []
    if missing := sorted(set(expected) - set(weights)):
        problems.append(f"{len(missing)} missing keys: {_listed(missing)}")
    if unexpected := sorted(set(weights) - set(expected)):
        problems.append(f"{len(unexpected)} unexpected keys: {_listed(unexpected)}")
    problems += [
        f"{key}: expected shape {list(expected[key].shape)}, got {list(weights[key].shape)}"
        for key in sorted(set(expected) & set(weights))
        if weights[key].shape != expected[key].shape
    ]
    if problems:
        raise WeightsError("not the weights of a FreeSOLO network with detectron2's names: " + "; ".join(problems[:12]))


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _normalised(shrunk: npt.NDArray[np.uint8]) -> Tensor:
    tensor = torch.from_numpy(shrunk).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    return (tensor - _per_channel(IMAGENET_MEAN)) / _per_channel(IMAGENET_STD)


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]
