"""From raw outputs to masks: point NMS, selection, matrix NMS, upsampling, boxes. Pure functions, no model.

Every comparison is the released code's: scores strictly above the score threshold, mask probabilities strictly above
0.5, areas strictly above the level's stride, decayed scores at or above the update threshold. Equal scores keep the
order levels, rows, columns, classes.

However many cells fire, at most twice `max_candidates` soft masks and their binary twins are in memory at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from stages.proposals.boxes import BoxRule
from stages.proposals.settings import DecodeSettings

SIGMA = 2.0  # of the gaussian decay, SOLOv2 sec. 3.4
MASK_THRESHOLD = 0.5
CHUNK = 64  # soft masks computed together when only their area and mean are wanted
UPSAMPLE_CHUNK = 8  # masks upsampled together: the padded input is 16 times as large as the mask features


class Sizes(NamedTuple):
    """Height and width of one image: of the network's input, without its padding, and of the original."""

    padded: tuple[int, int]
    resized: tuple[int, int]
    original: tuple[int, int]


class Cells(NamedTuple):
    """The cells above the threshold, not yet sorted: n (cell, class) pairs."""

    scores: Tensor  # (n,) class probability
    classes: Tensor  # (n,) int64
    kernels: Tensor  # (n, kernel)
    min_areas: Tensor  # (n,) stride of the cell's level


def decode(
    category_logits: Sequence[Tensor],
    kernels: Sequence[Tensor],
    features: Tensor,
    sizes: Sizes,
    settings: DecodeSettings,
) -> tuple[Tensor, Tensor]:
    """Masks and scores of ONE image, best first.

    category_logits: per level (classes, S, S); kernels: per level (kernel, S, S); features: (kernel, h, w) at stride 4;
    all of one dtype, float32 or float64 (areas are counted in it).
    Returns masks bool (N, H, W) at the original size and scores (N,), N = 0 if nothing fires. No mask is empty.
    """
    cells = fired_cells(category_logits, kernels, settings.score_threshold, settings.strides)
    few = len(cells.scores) <= settings.max_candidates
    soft = soft_masks(cells.kernels, features) if few else None  # else there may be any number of them
    areas, maskness = mask_statistics(cells.kernels, features) if soft is None else soft_statistics(soft)
    large = torch.nonzero(areas > cells.min_areas)[:, 0]
    scores = cells.scores[large] * maskness[large]
    order = torch.argsort(scores, descending=True, stable=True)[: settings.max_candidates]
    best, scores = large[order], scores[order]

    soft = soft_masks(cells.kernels[best], features) if soft is None else soft[best]
    scores = matrix_nms(soft > MASK_THRESHOLD, cells.classes[best], scores)
    kept = torch.nonzero(scores >= settings.update_threshold)[:, 0]
    order = torch.argsort(scores[kept], descending=True, stable=True)[: settings.max_proposals]
    kept = kept[order]

    masks = upsampled_masks(soft[kept], sizes)
    visible = _occupied(masks.flatten(1), 1)
    return masks[visible], scores[kept][visible]


def point_nms(probabilities: Tensor) -> Tensor:
    """Zero every cell that is not the maximum of itself and its upper, left and upper-left neighbour. (..., S, S)."""
    highest = functional.max_pool2d(probabilities, 2, stride=1, padding=1)[..., :-1, :-1]
    return probabilities * (highest == probabilities)


def fired_cells(
    category_logits: Sequence[Tensor], kernels: Sequence[Tensor], threshold: float, strides: Sequence[int]
) -> Cells:
    """All (cell, class) with a probability strictly above the threshold after point NMS."""
    parts = []
    for logits, level_kernels, stride in zip(category_logits, kernels, strides, strict=True):
        probabilities = point_nms(logits.sigmoid()).flatten(1).T  # (cells, classes)
        cell, category = torch.nonzero(probabilities > threshold, as_tuple=True)
        cell_kernels = level_kernels.flatten(1).T[cell]
        parts.append((probabilities[cell, category], category, cell_kernels, torch.full_like(cell, stride)))
    return Cells(*(torch.cat(column) for column in zip(*parts, strict=True)))


def soft_masks(kernels: Tensor, features: Tensor) -> Tensor:
    """Mask probabilities (n, h, w): each kernel (n, C) is a 1x1 convolution over the features (C, h, w)."""
    return (kernels @ features.flatten(1)).sigmoid_().view(len(kernels), *features.shape[1:])


def mask_statistics(kernels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Per kernel (n, C): how many pixels are above 0.5, and the mean probability of those (NaN if there are none)."""
    chunks = [soft_statistics(soft_masks(chunk, features)) for chunk in torch.split(kernels, CHUNK)]
    areas, means = zip(*chunks, strict=True)
    return torch.cat(areas), torch.cat(means)


def soft_statistics(soft: Tensor) -> tuple[Tensor, Tensor]:
    """`mask_statistics` of soft masks (n, h, w)."""
    flat = soft.flatten(1)
    inside = flat > MASK_THRESHOLD
    area = inside.sum(1)
    return area, (flat * inside).sum(1) / area


def matrix_nms(masks: Tensor, classes: Tensor, scores: Tensor) -> Tensor:
    """Scores decayed by the overlap with better masks of the same class (SOLOv2 sec. 3.4, gaussian).

    masks bool (n, h, w), none empty, sorted by score, best first; classes (n,); scores (n,) -> (n,).
    A mask's decay is the smallest exp(-2 iou_ij^2) / exp(-2 most_i^2) over the better masks i, where most_i is i's own
    largest IoU with a better mask. Nothing is removed.
    """
    if not len(masks):
        return scores
    flat = masks.flatten(1).to(scores.dtype)  # counts of pixels: exact in float32 up to 16 million
    intersection = flat @ flat.T
    area = intersection.diagonal()
    iou = intersection / (area[:, None] + area[None, :] - intersection)
    iou = torch.where(classes[:, None] == classes[None, :], iou, 0).triu(1)
    most = iou.amax(0)
    decay = torch.exp(-SIGMA * iou**2) / torch.exp(-SIGMA * most[:, None] ** 2)
    return scores * decay.amin(0)


def upsampled_masks(soft: Tensor, sizes: Sizes) -> Tensor:
    """Probabilities (n, h, w) at stride 4 of the padded input -> bool (n, H, W) at the original size.

    Bilinear to the padded size, cut to the unpadded one, bilinear to the original one, then strictly above 0.5.
    """
    masks = torch.empty((len(soft), *sizes.original), dtype=torch.bool, device=soft.device)
    height, width = sizes.resized
    for start in range(0, len(soft), UPSAMPLE_CHUNK):
        chunk = slice(start, start + UPSAMPLE_CHUNK)
        padded = functional.interpolate(soft[None, chunk], sizes.padded, mode="bilinear", align_corners=False)
        cut = padded[..., :height, :width]
        original = functional.interpolate(cut, sizes.original, mode="bilinear", align_corners=False)
        masks[chunk] = original[0] > MASK_THRESHOLD
    return masks


def mask_boxes(masks: Tensor, rule: BoxRule) -> Tensor:
    """Boxes float32 (N, 4) XYXY in pixels of masks bool (N, H, W), none empty.

    `reference`: per axis, the mean index of the occupied columns (rows) plus and minus half their COUNT, which is
    (a - 0.5, b + 0.5) for a mask without gaps from pixel a to pixel b; with gaps it may miss parts.
    `tight`: the outer edges (a, b + 1), always around all.
    """
    columns = _extent(_occupied(masks, 1), rule)
    rows = _extent(_occupied(masks, 2), rule)
    return torch.stack([columns[0], rows[0], columns[1], rows[1]], dim=1)


def _occupied(masks: Tensor, axis: int) -> Tensor:
    """`masks.any(axis)`, several times faster by way of the largest byte."""
    return masks.view(torch.uint8).amax(axis).bool()


def _extent(occupied: Tensor, rule: BoxRule) -> tuple[Tensor, Tensor]:
    """Start and end along one axis of bool (N, L)."""
    index = torch.arange(occupied.shape[1], device=occupied.device, dtype=torch.float32)
    if rule == "tight":
        first = occupied.to(torch.uint8).argmax(1).float()
        last = occupied.flip(1).to(torch.uint8).argmax(1).float()
        return first, occupied.shape[1] - last
    count = occupied.sum(1).float()
    centre = (occupied * index).sum(1) / count
    return centre - count / 2, centre + count / 2
