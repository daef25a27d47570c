"""Hybrid features of a mask: two images of it in one vision transformer, which meet in its last blocks.

From HybridGL (github.com/fhgyuanshen/HybridGL). The local image is the mask's object on a flat colour, the scene is the
whole image blurred outside the mask; both at full frame. In each of the last k blocks one stream is added, doubled, to
the other: the scene to the local image (``g2l``), or the local image to the scene (``l2g``). Every mask has its own two
images, so that nothing is shared between masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN
from torch import Tensor

from stages.device.transfer import to_device
from stages.views.registry import Masks, MaskVectors
from stages.visual.blocks import run_block, run_class_token
from stages.visual.entry import Entry, preprocess_of
from stages.visual.masked_vit import MaskedViT
from stages.visual.passes import floats, reached
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from store.errors import ParameterError

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared

Direction = Literal["g2l", "l2g"]
"""Which stream is added to which: global to local, and the vector is the local one; or the other way round."""

FILL = OPENAI_DATASET_MEAN
"""CLIP's mean colour; the release writes these numbers into the already normalised local image."""
KERNEL = (1, 3, 6, 12, 20, 30, 36, 40, 36, 30, 20, 12, 6, 3, 1)
"""256 times the weights of OpenCV's Gaussian of 15 pixels for bytes."""
SHARE = 2.0
"""The weight of the stream that is added."""


@torch.inference_mode()
def hybrid_features(
    encoder: MaskEncoder,
    image: Prepared,
    masks: Masks,
    directions: Sequence[Direction],
    *,
    masked_blocks: int = 3,
    preprocess: Entry = "release",
) -> MaskVectors:
    """The sum of the hybrid vectors of every direction, raw.

    Args:
        masks: bool (N, H, W). masked_blocks: k, in how many last blocks the streams meet.
        preprocess: how the two images are normalised and resized: ``release``, ImageNet's mean and std without antialias,
            or ``encoder``, as this encoder reads images.

    Raises:
        ParameterError: an encoder that is no vision transformer, or no such number of blocks or preprocessing.
    """
    tower = encoder.tower
    if not isinstance(tower, MaskedViT):
        raise ParameterError(
            f"encoders: the hybrid views need an encoder of kind vit, got {type(tower).__name__}; choose a vision "
            "transformer, or leave the hybrid views out"
        )
    pixels = preprocess_of(encoder, preprocess, IMAGENET_MEAN, IMAGENET_STD)
    soft = pixels.grid_masks(masks, tower.grid, encoder.batch, torch.device("cpu"))
    images = MaskImages(image, pixels, encoder.device)
    parts = [np.zeros((0, tower.dim), np.float32)]
    for start in range(0, len(masks), encoder.batch):
        part = slice(start, start + encoder.batch)
        local, scene = (
            tower.shared(view.to(encoder.dtype), [masked_blocks])[masked_blocks]
            for view in images.of(masks[part], tower.input_size)
        )
        weights = soft[part].flatten(1).to(local)
        vectors = [floats(_MEETINGS[way](tower, local, scene, weights, masked_blocks)) for way in directions]
        parts.append(np.sum(vectors, axis=0))
    return MaskVectors(np.concatenate(parts), ~reached(soft), "mask empty on the patch grid")


def local_from_global(tower: MaskedViT, local: Tensor, scene: Tensor, weights: Tensor, k: int) -> Tensor:
    """``g2l``: the vector of the local image, which takes up the mask's patches of the scene: (N, dim).

    Args:
        local, scene: tokens that enter block L - k, (N, 1 + patches, width). weights: masks on the grid, (N, patches).
    """
    *blocks, last = tower.blocks[-k:]
    taken = SHARE * torch.cat([torch.ones_like(weights[:, :1]), weights], 1)[..., None]
    bias = tower.attention_bias(weights)
    for block in blocks:
        local, scene = run_block(block, local + taken * scene), run_block(block, scene, bias)
    return tower.projected(run_class_token(last, local + taken * scene))


def global_from_local(tower: MaskedViT, local: Tensor, scene: Tensor, weights: Tensor, k: int) -> Tensor:
    """``l2g``: the vector of the scene, which takes up the local image: (N, dim). Arguments as `local_from_global`."""
    *blocks, last = tower.blocks[-k:]
    bias = tower.attention_bias(weights)
    for block in blocks:
        local, scene = run_block(block, local), run_block(block, local + SHARE * scene, bias)
    return tower.projected(run_class_token(last, local + SHARE * scene, bias))


_MEETINGS: dict[Direction, Callable[[MaskedViT, Tensor, Tensor, Tensor, int], Tensor]] = {
    "g2l": local_from_global,
    "l2g": global_from_local,
}


class MaskImages:
    """The local image and the scene of any mask of an image, at full frame."""

    def __init__(self, image: Prepared, pixels: Preprocess, device: torch.device) -> None:
        original = np.array(image.original)
        self._sharp, self._smooth = (
            to_device(each, device).permute(2, 0, 1).float().div_(255) for each in (original, blurred(original))
        )
        self._mean, self._std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (pixels.mean, pixels.std))
        self._normal = (self._sharp - self._mean) / self._std
        colour = FILL if pixels.fill == "reference" else (0.0, 0.0, 0.0)
        self._fill = torch.tensor(colour, device=device).view(3, 1, 1)
        self._pixels = pixels

    def of(self, masks: Masks, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Of masks bool (N, H, W), normalised: the local images and the scenes, float32 (N, 3, *size) each."""
        local, scene = (self._normal.new_empty(len(masks), 3, *size) for _ in range(2))
        for row, mask in enumerate(masks):
            inside = to_device(mask, self._normal.device)
            local[row] = self._pixels.resize(torch.where(inside, self._normal, self._fill)[None], size)[0]
            scene[row] = self._pixels.resize(torch.where(inside, self._sharp, self._smooth)[None], size)[0]
        return local, (scene - self._mean) / self._std


def blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's Gaussian blur of 15 x 15 pixels of uint8 (H, W, C), to the byte.

    OpenCV blurs bytes with whole-number weights (`KERNEL`) and rounds once, half up; at the border the image is mirrored
    about its outermost pixels, which are not repeated.
    """
    reach, total = len(KERNEL) // 2, pixels.astype(np.int32)
    for axis in (0, 1):
        margins = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        windows = sliding_window_view(np.pad(total, margins, mode="reflect"), len(KERNEL), axis)
        total = windows @ np.array(KERNEL, np.int32)
    return ((total + (1 << 15)) >> 16).astype(np.uint8)
