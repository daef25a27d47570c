"""CLIP features of masks (Yu et al., CVPR 2023, sec. 3): global (masked inside CLIP) and local (crops). No text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn

from stages.scoring.score_rule import ScoreRule
from stages.visual.masked_resnet import MaskedResNet
from stages.visual.masked_vit import MaskedViT, Masking
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Fill, Prepared, Preprocess, Resized, crop_windows
from store.errors import ParameterError

PreprocessKind = Literal["reference", "clip"]
Features = NDArray[np.float32]
Masks = NDArray[np.bool_]
Boxes = NDArray[np.floating]
Scene = tuple[Image.Image | Resized | Prepared, Masks, Boxes]


@dataclass(frozen=True, eq=False)
class Encoded:
    """What `MaskEncoder.encode_images` finds of one image with N masks.

    ``by_k``: f_G (N, D) for each k; ``local``: f_L (N, D), None where not asked for; ``reaches_grid`` bool (N,).
    """

    by_k: dict[int, Features]
    local: Features | None
    reaches_grid: NDArray[np.bool_]


class MaskEncoder:
    """Global and local features of an open_clip CLIP: a vision transformer or CLIP's ResNet, put in eval mode.

    ``preprocess``: ``reference`` reads images as the released code does (ImageNet mean and std, no antialias on
    tensors), ``clip`` with the model's own mean and std and antialiased; a given ``antialias`` overrides that part.
    ``short_side`` (pixels) and ``fill`` as in `Preprocess`, ``masking`` as in `MaskedViT` (a ResNet knows ``token``
    only). ``batch`` bounds how many masks or crops are in one forward pass. Device and dtype are those of the model;
    all results are float32 on the CPU.

    An image is PIL RGB, or what `prepare` made of it, so that global and local features decode it once. Masks are bool
    (N, H, W) at the image's own size; N = 0 gives shape (0, D).

    ``dim`` is D. ``score_rule`` says how features become scores (`stages.scoring.score_rule`).
    """

    def __init__(
        self,
        open_clip_model: nn.Module,
        preprocess: PreprocessKind = "reference",
        *,
        short_side: int = 800,
        fill: Fill = "reference",
        antialias: bool | None = None,
        masking: Masking = "token",
        batch: int = 64,
    ) -> None:
        if preprocess not in get_args(PreprocessKind):
            raise ParameterError(
                f"preprocess: expected one of {', '.join(get_args(PreprocessKind))}, got {preprocess!r}"
            )
        if batch < 1:
            raise ParameterError(f"batch: expected at least 1, got {batch}")
        visual: Any = getattr(open_clip_model, "visual", None)
        self._model: Any = open_clip_model.eval()
        self.batch = batch
        self._backbone = _backbone(visual, masking)
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if preprocess == "clip":
            mean = tuple(getattr(visual, "image_mean", OPENAI_DATASET_MEAN))
            std = tuple(getattr(visual, "image_std", OPENAI_DATASET_STD))
        smooth = preprocess == "clip" if antialias is None else antialias
        self._preprocess = Preprocess(mean, std, smooth, short_side, fill)
        self.dim: int = self._backbone.dim
        self.score_rule: ScoreRule = self._backbone.score_rule

    def shrink(self, image: Image.Image) -> Resized:
        """The part of `prepare` that other threads may do ahead of it: decode and resize, no torch."""
        return self._preprocess.shrink(image)

    def prepare(self, image: Image.Image | Resized | Prepared) -> Prepared:
        """Decode, resize and normalise once; the result stands for the image in every other method."""
        if not isinstance(image, Image.Image) and image.preprocess != self._preprocess:
            raise ParameterError(
                f"image: prepared by {image.preprocess}, expected {self._preprocess}; prepare it with this encoder"
            )
        return image if isinstance(image, Prepared) else self._preprocess.prepare(image, self._device)

    def global_features(self, image: Image.Image | Prepared, masks: Masks, masked_blocks: int = 3) -> Features:
        """f_G of each mask, raw: float32 (N, D). ``masked_blocks`` is k, 1 to all blocks; a ResNet ignores it.

        Masks that are equal on the model's grid have the same feature, to the byte. One that does not reach the grid (see
        `reaches_grid`) masks every patch: all of these have the same.
        """
        return self.global_features_by_k(image, masks, [masked_blocks])[masked_blocks]

    def global_features_by_k(
        self, image: Image.Image | Prepared, masks: Masks, ks: Sequence[int]
    ) -> dict[int, Features]:
        """`global_features` for each k of ``ks``; the blocks before the masked ones run once for all."""
        return self.encode_images([(image, masks, np.zeros((len(masks), 4)))], ks, local=False)[0].by_k

    def reaches_grid(self, masks: Masks) -> NDArray[np.bool_]:
        """Which masks (N, H, W) keep a patch: bool (N,). Empty ones do not, nor do some that are small or thin."""
        return _reached(self._grid_masks(masks))

    def local_features(self, image: Image.Image | Prepared, masks: Masks, boxes: Boxes) -> Features:
        """f_L of each mask: float32 (N, D); raw, but L2-normalised for a ResNet, by its definition.

        ``boxes`` float (N, 4) XYXY pixels, cropped as `crop_windows` says; `degenerate_boxes` tells which rows it had
        to widen. A mask without a pixel inside its box gives the feature of the fill colour alone.
        """
        local = self.encode_images([(image, masks, boxes)], [])[0].local
        assert local is not None
        return local

    @torch.inference_mode()
    def encode_images(
        self, scenes: Iterable[Scene], ks: Sequence[int], *, local: bool = True, together: int | None = None
    ) -> list[Encoded]:
        """`global_features_by_k` and, with ``local``, `local_features` of many images, batched across images.

        ``scenes`` are images with their masks and boxes; each is taken when its turn comes, so a generator may work
        ahead and no more than one prepared image is held. At most ``together`` images, ``batch`` by default, share
        forward passes; how many do changes nothing but the rounding of float sums.
        """
        left, found = iter(scenes), []
        while some := self._encode_some(islice(left, together or self.batch), ks, local):
            found += some
        return found

    def _encode_some(self, scenes: Iterable[Scene], ks: Sequence[int], local: bool) -> list[Encoded]:
        """`encode_images` of at most ``batch`` images."""
        views, softs, counts = [], [], []
        size = self._backbone.input_size
        rows_at_once = self.batch if local else 0
        crops = _Crops(lambda views: self._backbone.encode(views.to(self._dtype)), rows_at_once, size, self._device)
        for image, masks, boxes in scenes:
            prepared = self.prepare(image)
            _check_masks(masks, prepared)
            counts.append(len(masks))
            softs.append(self._grid_masks(masks))
            if ks:
                views.append(self._preprocess.global_view(prepared, size))
            if local:
                windows = _windows(boxes, masks, prepared)
                source = self._preprocess.source_view(prepared)
                for part, room in crops.rooms(len(masks)):
                    self._preprocess.cut(source, masks[part], windows[part], room)
        if not counts:
            return []
        f_global = self._global(views, softs, ks) if ks else {}
        f_local = np.split(self._collect(crops.encoded()), np.cumsum(counts)[:-1])
        return [
            Encoded({k: f[row] for k, f in f_global.items()}, f_local[row] if local else None, _reached(soft))
            for row, soft in enumerate(softs)
        ]

    def _global(self, views: list[Tensor], softs: list[Tensor], ks: Sequence[int]) -> dict[int, list[Features]]:
        """f_G of the masks ``softs`` (N, *grid) of each image, for each k. Masks that are equal on the grid are one."""
        distinct = [soft.unique(dim=0, return_inverse=True) for soft in softs]
        counts = [len(own) for own, _ in distinct]
        owners, masks = np.repeat(np.arange(len(counts)), counts), torch.cat([own for own, _ in distinct])
        f_global = {}
        for k, state in self._backbone.shared(torch.cat(views).to(self._dtype), ks).items():
            found = _floats(self._backbone.masked(state, owners, masks, k, self.batch))
            parts = np.split(found, np.cumsum(counts)[:-1])
            f_global[k] = [part[which.numpy()] for part, (_, which) in zip(parts, distinct, strict=True)]
        return f_global

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return self._model.visual.conv1.weight.dtype

    def _batches(self, count: int) -> Iterator[slice]:
        return (slice(start, start + self.batch) for start in range(0, count, self.batch))

    def _grid_masks(self, masks: Masks) -> Tensor:
        """On the CPU, where tokens are packed; only whole planes are worth a GPU."""
        device = self._device if self._preprocess.antialias else torch.device("cpu")
        return self._preprocess.grid_masks(masks, self._backbone.grid, self.batch, device).cpu()

    def _collect(self, parts: Iterable[Tensor]) -> Features:
        rows = [_floats(part) for part in parts]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)


class _Crops:
    """Crops of many images, encoded whenever ``batch`` of them are there."""

    def __init__(self, encode: Callable[[Tensor], Tensor], batch: int, size: tuple[int, int], device: torch.device):
        self._encode = encode
        self._room = torch.empty(batch, 3, *size, device=device)
        self._filled = 0
        self._done: list[Tensor] = []

    def rooms(self, count: int) -> Iterator[tuple[slice, Tensor]]:
        """Where the next ``count`` crops go: some rows of them at a time, with the place to write those, (n, 3, *size)."""
        start = 0
        while start < count:
            taken = min(count - start, len(self._room) - self._filled)
            yield slice(start, start + taken), self._room[self._filled : self._filled + taken]
            start, self._filled = start + taken, self._filled + taken
            if self._filled == len(self._room):
                self._run()

    def encoded(self) -> list[Tensor]:
        """The features of all crops, in order."""
        if self._filled:
            self._run()
        return self._done

    def _run(self) -> None:
        self._done.append(self._encode(self._room[: self._filled]))
        self._filled = 0


def _backbone(visual: Any, masking: Masking) -> MaskedViT | MaskedResNet:
    if isinstance(visual, VisionTransformer):
        return MaskedViT(visual, masking)
    if not isinstance(visual, ModifiedResNet):
        raise ParameterError(
            f"open_clip_model: expected a CLIP whose image encoder is open_clip's VisionTransformer or ModifiedResNet, "
            f"got {type(visual).__name__}"
        )
    if masking != "token":
        raise ParameterError(f"masking: expected 'token', the only one that a ResNet has, got {masking!r}")
    return MaskedResNet(visual)


def _floats(tensor: Tensor) -> Features:
    return tensor.float().cpu().numpy()


def _reached(soft: Tensor) -> NDArray[np.bool_]:
    reached: NDArray[np.bool_] = (soft != 0).flatten(1).any(1).numpy()
    return reached


def _windows(boxes: Boxes, masks: Masks, prepared: Prepared) -> NDArray[np.int64]:
    windows = crop_windows(boxes, prepared.height, prepared.width)
    if len(windows) != len(masks):
        raise ParameterError(f"boxes: expected one for each of the {len(masks)} masks, got {len(windows)}")
    return windows


def _check_masks(masks: Masks, prepared: Prepared) -> None:
    expected = (prepared.height, prepared.width)
    if masks.dtype != np.bool_ or masks.ndim != 3 or masks.shape[1:] != expected:
        raise ParameterError(
            f"masks: expected bool (N, {expected[0]}, {expected[1]}), the image's size, got {masks.dtype} {masks.shape}"
        )
