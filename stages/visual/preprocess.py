"""From a PIL image, masks and boxes to what CLIP's image encoder reads (Yu et al., CVPR 2023, sec. 3.2).

One normalised tensor per image, its short side resized by PIL, is the source of everything: squashed to the input size
it is the global view; resized back to H x W, masked and cropped it gives the local views. Masks become soft values on
the encoder's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from store.errors import ParameterError

Fill = Literal["reference", "mean"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """How pixels are normalised and resized.

    ``mean`` and ``std`` per channel of RGB in [0, 1]; ``antialias`` of every resize of a tensor (PIL's own always has
    it); ``short_side`` in pixels; ``fill`` outside a mask in a local view: ``reference`` writes 0.485, 0.456, 0.406
    into the already normalised tensor, as the released code does, ``mean`` writes 0, the true mean colour.
    """

    mean: Channels
    std: Channels
    antialias: bool
    short_side: int
    fill: Fill

    def __post_init__(self) -> None:
        if self.short_side < 1:
            raise ParameterError(f"short_side: expected at least 1 pixel, got {self.short_side}")
        if self.fill not in get_args(Fill):
            raise ParameterError(f"fill: expected one of {', '.join(get_args(Fill))}, got {self.fill!r}")

    def prepare(self, image: Image.Image, device: torch.device) -> Prepared:
        """Resize the short side, normalise. ``image`` is PIL RGB of any size; the long side has no upper limit."""
        if image.mode != "RGB":
            raise ParameterError(
                f"image: expected PIL mode RGB, got {image.mode}; convert it with image.convert('RGB')"
            )
        width, height = image.size
        short, long = min(width, height), max(width, height)
        resized_long = int(self.short_side * long / short)
        target = (self.short_side, resized_long) if width <= height else (resized_long, self.short_side)
        pixels = np.array(image.resize(target, Image.Resampling.BILINEAR), dtype=np.float32) / 255
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(device)
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return Prepared((tensor - mean) / std, height, width, self)

    def resize(self, tensor: Tensor, size: Size) -> Tensor:
        """Bilinear resize of float (N, C, h, w) to ``size`` = (height, width)."""
        return functional.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=self.antialias)

    def global_view(self, prepared: Prepared, size: Size) -> Tensor:
        """The whole image squashed to ``size`` (aspect ratio not kept): float32 (1, 3, *size)."""
        return self.resize(prepared.tensor[None], size)

    def grid_masks(self, masks: NDArray[np.bool_], grid: Size, batch: int, device: torch.device) -> Tensor:
        """Masks on the encoder's grid: bool (N, H, W) -> float32 (N, *grid), soft values in [0, 1]."""
        soft = torch.zeros(len(masks), *grid, device=device)
        for start in range(0, len(masks), batch):
            planes = torch.from_numpy(masks[start : start + batch].astype(np.float32)).to(device)
            soft[start : start + batch] = self.resize(planes[:, None], grid)[:, 0]
        return soft

    def source_view(self, prepared: Prepared) -> Tensor:
        """The tensor that local views are cut from, resized back to the image's own size: float32 (3, H, W)."""
        return self.resize(prepared.tensor[None], (prepared.height, prepared.width))[0]

    def local_views(self, source: Tensor, masks: NDArray[np.bool_], windows: NDArray[np.int64], size: Size) -> Tensor:
        """Crop ``source`` (3, H, W) to each window, fill it outside the mask, squash: float32 (N, 3, *size).

        ``windows`` are those of `crop_windows`. A mask with no pixel in its window gives a view of the fill colour
        alone.
        """
        colour = IMAGENET_MEAN if self.fill == "reference" else (0.0, 0.0, 0.0)
        fill = torch.tensor(colour, device=source.device).view(3, 1, 1)
        views = source.new_empty(len(masks), 3, *size)
        for row, (mask, (left, top, right, bottom)) in enumerate(zip(masks, windows.tolist(), strict=True)):
            inside = torch.from_numpy(mask[top:bottom, left:right].copy()).to(source.device)
            region = torch.where(inside, source[:, top:bottom, left:right], fill)
            views[row] = self.resize(region[None], size)[0]
        return views


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image decoded and normalised once, for global and local features alike. Made by `MaskedClip.prepare`.

    ``tensor`` float32 (3, h, w) with short side ``preprocess.short_side``; ``height`` x ``width`` is the image's own
    size in pixels.
    """

    tensor: Tensor
    height: int
    width: int
    preprocess: Preprocess


def _truncated(boxes: NDArray[np.floating], height: int, width: int) -> NDArray[np.int64]:
    """XYXY boxes truncated toward zero, as the released code does, and kept inside the image: int64 (N, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ParameterError(f"boxes: expected shape (N, 4), XYXY pixels, got {boxes.shape}")
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if wrong.size:
        raise ParameterError(f"boxes: expected finite pixels, got {boxes[wrong[0]].tolist()} in row {wrong[0]}")
    limit = np.array([width, height, width, height])
    return np.clip(np.trunc(boxes), 0, limit).astype(np.int64)


def degenerate_boxes(boxes: NDArray[np.floating], height: int, width: int) -> NDArray[np.bool_]:
    """Rows of ``boxes`` float (N, 4), XYXY pixels, whose window has no pixel in the height x width image: bool (N,).

    The released code raises on them (a mask in column 0 or row 0 alone has such a box); `crop_windows` widens them.
    """
    windows = _truncated(boxes, height, width)
    return (windows[:, 2] <= windows[:, 0]) | (windows[:, 3] <= windows[:, 1])


def crop_windows(boxes: NDArray[np.floating], height: int, width: int) -> NDArray[np.int64]:
    """Pixel windows of ``boxes`` float (N, 4), XYXY: int64 (N, 4) left, top, right, bottom, the last two excluded.

    Truncated toward zero, kept inside the image, and widened to one pixel where nothing is left (see
    `degenerate_boxes`).
    """
    windows = _truncated(boxes, height, width)
    start = np.minimum(windows[:, :2], np.array([width - 1, height - 1]))
    stop = np.maximum(windows[:, 2:], start + 1)
    return np.concatenate([start, stop], axis=1)
