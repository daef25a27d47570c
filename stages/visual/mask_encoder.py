"""CLIP features of masks (Yu et al., CVPR 2023, sec. 3): global (masked inside CLIP) and local (crops). No text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor, nn

from stages.clip.backbone import Masking, VisualTower, backbone_of
from stages.scoring.score_rule import ScoreRule
from stages.visual.passes import Boxes, Features, GlobalPass, LocalPass, Masks, reached
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Channels, Fill, Prepared, Preprocess, Resized
from store.errors import ParameterError

PreprocessKind = Literal["reference", "clip"]
Scene = tuple[Image.Image | Resized | Prepared, Masks, Boxes]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The features of one image with N masks, by `MaskEncoder.encode_images`.

    ``by_k``: f_G (N, D) for each k; ``local``: f_L (N, D), None where not asked for; ``reaches_grid`` bool (N,).
    """

    by_k: dict[int, Features]
    local: Features | None
    reaches_grid: NDArray[np.bool_]


class MaskEncoder:
    """Global and local features of an open_clip model of any kind (`stages.clip.backbone`), put in eval mode.

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
        backbone = backbone_of(open_clip_model)
        self.model: Any = open_clip_model.eval()
        self.batch = batch
        self.masking: Masking = masking
        self.tower: VisualTower = backbone.visual_tower(open_clip_model, masking)
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if preprocess == "clip":
            mean, std = self.trained_statistics()
        smooth = preprocess == "clip" if antialias is None else antialias
        self.pixels = Preprocess(mean, std, smooth, short_side, fill)
        self.dim: int = self.tower.dim
        self.score_rule: ScoreRule = backbone.score_rule

    def trained_statistics(self) -> tuple[Channels, Channels]:
        """Mean and std of RGB in [0, 1] with which the model was trained; CLIP's where it does not say."""
        visual: Any = getattr(self.model, "visual", None)
        mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
        return tuple(mean or OPENAI_DATASET_MEAN), tuple(std or OPENAI_DATASET_STD)

    def shrink(self, image: Image.Image) -> Resized:
        """The part of `prepare` that other threads may prefetch: decode and resize, no torch."""
        return self.pixels.shrink(image)

    def prepare(self, image: Image.Image | Resized | Prepared) -> Prepared:
        """Decode, resize and normalise once; the result stands for the image in every other method."""
        if not isinstance(image, Image.Image) and image.preprocess != self.pixels:
            raise ParameterError(
                f"image: prepared by {image.preprocess}, expected {self.pixels}; prepare it with this encoder"
            )
        return image if isinstance(image, Prepared) else self.pixels.prepare(image, self.device)

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
        return reached(self.grid_masks(masks))

    def local_features(self, image: Image.Image | Prepared, masks: Masks, boxes: Boxes) -> Features:
        """f_L of each mask: float32 (N, D); raw, but L2-normalised for a ResNet, by its definition.

        ``boxes`` float (N, 4) XYXY pixels, cropped as `crop_windows` says; `degenerate_boxes` tells which rows it had
        to widen. A mask without a pixel inside its box gives the feature of the fill colour alone.
        """
        local = self.encode_images([(image, masks, boxes)], [])[0].local
        assert local is not None
        return local

    def encode_images(
        self, scenes: Iterable[Scene], ks: Sequence[int], *, local: bool = True, together: int | None = None
    ) -> list[Encoded]:
        """`global_features_by_k` and, with ``local``, `local_features` of many images, batched across images.

        ``scenes`` are images with their masks and boxes; they are taken one by one, so a generator may
        prefetch, and no more than one prepared image is held. At most ``together`` images, ``batch`` by default, share
        forward passes; their number changes only the rounding of float sums.
        """
        left, encoded = iter(scenes), []
        while some := self._encode_some(islice(left, together or self.batch), ks, local):
            encoded += some
        return encoded

    def _encode_some(self, scenes: Iterable[Scene], ks: Sequence[int], local: bool) -> list[Encoded]:
        """`encode_images` of at most ``batch`` images."""
        by_k = GlobalPass(self, [(self.masking, k) for k in ks])
        crops, counts, kept = LocalPass(self) if local else None, 0, []
        for image, masks, boxes in scenes:
            prepared = self.prepared(image, masks)
            counts += 1
            if ks:
                by_k.add(prepared, masks)
            else:
                kept.append(self.reaches_grid(masks))
            if crops is not None:
                crops.add(prepared, masks, boxes)
        f_global, reach = by_k.finish()
        f_local = [None] * counts if crops is None else crops.finish()
        kept = reach if ks else kept
        return [Encoded({k: f[i] for (_, k), f in f_global.items()}, f_local[i], kept[i]) for i in range(counts)]

    def prepared(self, image: Image.Image | Resized | Prepared, masks: Masks) -> Prepared:
        """`prepare`, and a check that ``masks`` bool (N, H, W) are of its size."""
        ready = self.prepare(image)
        expected = (ready.height, ready.width)
        if masks.dtype != np.bool_ or masks.ndim != 3 or masks.shape[1:] != expected:
            raise ParameterError(
                f"masks: expected bool (N, {expected[0]}, {expected[1]}), the image's size, got {masks.dtype} {masks.shape}"
            )
        return ready

    def grid_masks(self, masks: Masks) -> Tensor:
        """Masks bool (N, H, W) on the tower's grid: float32 (N, *grid) on the CPU, where tokens are packed."""
        device = self.device if self.pixels.antialias else torch.device("cpu")  # only whole planes are worth a GPU
        return self.pixels.grid_masks(masks, self.tower.grid, self.batch, device).cpu()

    def tower_masking(self, masking: Masking) -> VisualTower:
        """The same image encoder, masking in this way.

        Raises:
            ParameterError: no such way, or this kind of encoder lacks it.
        """
        return self.tower if masking == self.masking else backbone_of(self.model).visual_tower(self.model, masking)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype
