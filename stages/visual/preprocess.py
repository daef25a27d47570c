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

from stages.device.transfer import to_device
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

    def shrink(self, image: Image.Image) -> Resized:
        """Resize the short side. ``image`` is PIL RGB of any size; the long side has no upper limit. Needs no torch."""
        if image.mode != "RGB":
            raise ParameterError(
                f"image: expected PIL mode RGB, got {image.mode}; convert it with image.convert('RGB')"
            )
        width, height = image.size
        short, long = min(width, height), max(width, height)
        resized_long = int(self.short_side * long / short)
        target = (self.short_side, resized_long) if width <= height else (resized_long, self.short_side)
        return Resized(np.array(image.resize(target, Image.Resampling.BILINEAR)), height, width, self, image)

    def prepare(self, image: Image.Image | Resized, device: torch.device) -> Prepared:
        """Resize the short side, as `shrink` may have done already, and normalise."""
        resized = self.shrink(image) if isinstance(image, Image.Image) else image
        tensor = to_device(resized.pixels, device).permute(2, 0, 1).float().contiguous()
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        pixels = tensor.div_(255).sub_(mean).div_(std)
        return Prepared(pixels, resized.height, resized.width, self, resized.original)

    def resize(self, tensor: Tensor, size: Size) -> Tensor:
        """Bilinear resize of float (N, C, h, w) to ``size`` = (height, width)."""
        return functional.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=self.antialias)

    def global_view(self, prepared: Prepared, size: Size) -> Tensor:
        """The whole image squashed to ``size`` (aspect ratio not kept): float32 (1, 3, *size)."""
        return self.resize(prepared.tensor[None], size)

    def grid_masks(self, masks: NDArray[np.bool_], grid: Size, batch: int, device: torch.device) -> Tensor:
        """Masks on the encoder's grid: bool (N, H, W) -> float32 (N, *grid), soft values in [0, 1].

        Without antialias only the four pixels that each value is made of are read.
        """
        if not self.antialias:
            (top, bottom, y), (left, right, x) = (
                taps(np.zeros(1, np.int64), np.array([length]), size)
                for length, size in zip(masks.shape[1:], grid, strict=True)
            )

            def pixels(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float32]:
                return masks[:, row[0, :, None], column[0]].astype(np.float32)

            upper, lower = (_lerp(pixels(row, left), pixels(row, right), x[0]) for row in (top, bottom))
            return torch.from_numpy(_lerp(upper, lower, y[0, :, None])).to(device)
        soft = torch.zeros(len(masks), *grid, device=device)
        for start in range(0, len(masks), batch):
            planes = to_device(masks[start : start + batch].astype(np.float32), device)
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
        views = source.new_empty(len(masks), 3, *size)
        self.cut(source, masks, windows, views)
        return views

    def cut(self, source: Tensor, masks: NDArray[np.bool_], windows: NDArray[np.int64], views: Tensor) -> None:
        """`local_views` into ``views``: one by one on a CPU, where that is faster, or with antialias; else all at once."""
        colour = IMAGENET_MEAN if self.fill == "reference" else (0.0, 0.0, 0.0)
        fill = torch.tensor(colour, device=source.device).view(3, 1, 1)
        if source.device.type != "cpu" and not self.antialias:
            views.copy_(cut_together(source, masks, windows, fill, (views.shape[2], views.shape[3])))
            return
        for view, mask, (left, top, right, bottom) in zip(views, masks, windows.tolist(), strict=True):
            inside = torch.from_numpy(mask[top:bottom, left:right].copy()).to(source.device)
            region = torch.where(inside, source[:, top:bottom, left:right], fill)
            view.copy_(self.resize(region[None], (views.shape[2], views.shape[3]))[0])


def cut_together(
    source: Tensor, masks: NDArray[np.bool_], windows: NDArray[np.int64], fill: Tensor, size: Size
) -> Tensor:
    """The views of `Preprocess.cut`, without antialias, by reading the four pixels that each value is made of.

    ``source`` (3, H, W), ``fill`` (3, 1, 1) -> (N, 3, *size). The same arithmetic in a few calls for any N: on a CPU
    four times slower than a loop over the masks, on a GPU free of its launches.
    """
    device, width = source.device, source.shape[2]
    left, top, right, bottom = windows.T
    upper, lower, y = (to_device(each, device) for each in taps(top, bottom - top, size[0]))
    before, after, x = (to_device(each, device) for each in taps(left, right - left, size[1]))
    inside, colours = to_device(masks, device).flatten(1), source.flatten(1)

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        at = row[:, :, None] * width + column[:, None]
        kept = inside.gather(1, at.flatten(1)).view(-1, 1, *size)
        return torch.where(kept, colours[:, at].transpose(0, 1), fill)

    def line(row: Tensor) -> Tensor:
        return torch.lerp(pixels(row, before), pixels(row, after), x[:, None, None])

    return torch.lerp(line(upper), line(lower), y[:, None, :, None])


def taps(
    start: NDArray[np.int64], length: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Where a bilinear resize (align_corners false, no antialias) of N windows to ``size`` reads along one axis.

    ``start`` and ``length`` int64 (N,), pixels. Returns the pixel before and the one after each place, int64 (N, size),
    and the share of the one after, float32, rounded as torch rounds it.
    """
    scale = (length.astype(np.float32) / np.float32(size)).astype(np.float64)
    # torch multiplies and subtracts in one step: float64 holds the exact product, then one rounding.
    place = np.maximum((scale[:, None] * (np.arange(size) + 0.5) - 0.5).astype(np.float32), 0)
    before = place.astype(np.int64)
    after = np.minimum(before + 1, length[:, None] - 1)
    return start[:, None] + before, start[:, None] + after, place - before.astype(np.float32)


def _lerp(low: NDArray[np.float32], high: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    return low * (1 - share) + high * share


@dataclass(frozen=True, eq=False)
class Resized:
    """An image decoded and resized, not yet normalised: which a thread can prefetch. Made by `MaskEncoder.shrink`.

    ``pixels`` uint8 (h, w, 3) with short side ``preprocess.short_side``; ``height`` x ``width`` is the image's own size;
    ``original`` the PIL RGB image itself.
    """

    pixels: NDArray[np.uint8]
    height: int
    width: int
    preprocess: Preprocess
    original: Image.Image


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image decoded and normalised once, for global and local features alike. Made by `MaskEncoder.prepare`.

    ``tensor`` float32 (3, h, w) with short side ``preprocess.short_side``; ``height`` x ``width`` is the image's own
    size in pixels; ``original`` the PIL RGB image itself, for views that do not start from ``tensor``.
    """

    tensor: Tensor
    height: int
    width: int
    preprocess: Preprocess
    original: Image.Image


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
