"""Visual prompts: the picture of the whole image is changed so that it points at a mask, and CLIP's image encoder reads it.

As FGVP does (github.com/ylingfeng/FGVP, ``clip_processing resize``): the image is resized by Pillow until its short side is
that of the encoder's input, changed there on bytes, normalised and squashed to the input's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torch.nn import functional

from stages.device.transfer import to_device
from stages.views.registry import Boxes, Masks, MaskVectors
from stages.visual.entry import Entry, preprocess_of
from stages.visual.passes import floats
from stages.visual.preprocess import Preprocess, degenerate_boxes
from store.errors import ParameterError

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder
    from stages.visual.preprocess import Prepared

RED = (255, 0, 0)


def blur_features(
    encoder: MaskEncoder, image: Prepared, masks: Masks, *, std: float = 100, preprocess: Entry = "release"
) -> MaskVectors:
    """The vectors of the blurred image with the mask's pixels left sharp, raw.

    Args:
        std: of Pillow's Gaussian, pixels of the picture whose short side is the encoder's; 0 blurs nothing.
        preprocess: ``release``, CLIP's mean and std without antialias, or ``encoder``, as this encoder reads images.

    Raises:
        ParameterError: no such std or preprocessing.
    """
    if not 0 <= std < float("inf"):
        raise ParameterError(f"std: expected a number of pixels, 0 or more, got {std}")
    picture = shrunk(image.original, min(encoder.tower.input_size))
    smooth = picture.filter(ImageFilter.GaussianBlur(std))
    kept = resized_masks(masks, (picture.height, picture.width))

    def prompt(row: int) -> Image.Image:
        return Image.composite(picture, smooth, Image.fromarray(kept[row]))

    vectors = _encoded(encoder, prompt, len(masks), preprocess)
    nothing: NDArray[np.bool_] = ~np.asarray(kept.any(axis=(1, 2)))
    return MaskVectors(vectors, nothing, "mask without a pixel of the picture")


def red_circle_features(
    encoder: MaskEncoder,
    image: Prepared,
    masks: Masks,
    boxes: Boxes,
    *,
    thickness: int = 2,
    preprocess: Entry = "release",
) -> MaskVectors:
    """The vectors of the image with a red ellipse in the box of each mask, raw.

    Args:
        boxes: float (N, 4), XYXY pixels of the image. thickness: of the line, pixels of the picture whose short side is
            the encoder's. preprocess: as in `blur_features`.

    Raises:
        ParameterError: no such thickness or preprocessing, or boxes of another form.
    """
    if not isinstance(thickness, int | np.integer) or thickness < 1:
        raise ParameterError(f"thickness: expected a whole number of pixels, 1 or more, got {thickness}")
    nothing = degenerate_boxes(boxes, image.height, image.width)
    if len(nothing) != len(masks):
        raise ParameterError(f"boxes: expected one for each of the {len(masks)} masks, got {len(nothing)}")
    picture = shrunk(image.original, min(encoder.tower.input_size))
    scale = np.array([picture.width / image.width, picture.height / image.height] * 2)
    ends = np.clip(np.asarray(boxes, np.float64) * scale, 0, np.array([picture.width - 1, picture.height - 1] * 2))

    def prompt(row: int) -> Image.Image:
        return with_ellipse(picture, ends[row], int(thickness))

    return MaskVectors(_encoded(encoder, prompt, len(ends), preprocess), nothing, "zero-size box, a dot is drawn")


def shrunk(image: Image.Image, short_side: int) -> Image.Image:
    """The picture with that short side, the aspect ratio kept, by Pillow's bilinear resize."""
    scale = short_side / min(image.size)
    width, height = (int(length * scale + 0.5) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def resized_masks(masks: Masks, size: tuple[int, int]) -> Masks:
    """Which pixels of a picture of ``size`` (height, width) belong to masks bool (N, H, W): bool (N, *size).

    Those whose value in a bilinear resize without antialias is above 0, as in the release.
    """
    kept = np.zeros((len(masks), *size), np.bool_)
    for row, mask in enumerate(masks):
        plane = torch.from_numpy(mask.astype(np.float32))[None, None]
        kept[row] = (functional.interpolate(plane, size, mode="bilinear", align_corners=False)[0, 0] > 0).numpy()
    return kept


def with_ellipse(picture: Image.Image, box: NDArray[np.float64], thickness: int) -> Image.Image:
    """A copy with the outline of the ellipse inscribed in ``box`` (XYXY pixels), in red; the line's middle is the ellipse.

    Centre and half axes are cut to whole pixels, as the release does.
    """
    x, y = ((box[:2] + box[2:]) / 2).astype(int).tolist()
    across, down = ((box[2:] - box[:2]) / 2).astype(int).tolist()
    outer, inner = thickness // 2, (thickness - 1) // 2
    drawn = picture.copy()
    reach, tall = across + outer, down + outer
    ImageDraw.Draw(drawn).ellipse((x - reach, y - tall, x + reach, y + tall), outline=RED, width=outer + inner + 1)
    return drawn


@torch.inference_mode()
def _encoded(
    encoder: MaskEncoder, prompt: Callable[[int], Image.Image], count: int, preprocess: Entry
) -> NDArray[np.float32]:
    """The encoder's vectors of ``count`` pictures, never more than ``encoder.batch`` at a time: float32 (count, D)."""
    pixels = preprocess_of(encoder, preprocess, *encoder.trained_statistics())
    vectors = [np.zeros((0, encoder.tower.dim), np.float32)]
    for start in range(0, count, encoder.batch):
        pictures = np.stack([np.asarray(prompt(row)) for row in range(start, min(start + encoder.batch, count))])
        views = entered(pictures, pixels, encoder.tower.input_size, encoder.device)
        vectors.append(floats(encoder.tower.encode(views.to(encoder.dtype))))
    return np.concatenate(vectors)


def entered(pictures: NDArray[np.uint8], pixels: Preprocess, size: tuple[int, int], device: torch.device) -> Tensor:
    """Pictures uint8 (n, h, w, 3), normalised and squashed: float32 (n, 3, *size)."""
    tensor = to_device(pictures, device).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    return pixels.resize((tensor - mean) / std, size)
