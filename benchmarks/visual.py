"""CLIP's visual side on random ViT-B/32 weights: the masked tail, crops, and an image's features as the release makes them."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as vision

from benchmarks.harness import Result, medians
from benchmarks.roofline import THREADS, counted, threads
from stages.device.linear import linear
from stages.device.prefetch import prefetch
from stages.device.threads import read_and_compute
from stages.visual.encoder import MaskedClip
from stages.visual.masked_vit import MaskedViT
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, Resized, crop_windows, cut_together

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
K = 3
Array = np.ndarray[Any, Any]


@cache
def model() -> Any:
    """ViT-B/32 with the start values of open_clip."""
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip.get_model_config("ViT-B-32-quickgelu")).eval().requires_grad_(False)


@cache
def scene() -> tuple[Image.Image, Array, Array, Array]:
    """A photograph with what the released FreeSOLO code proposes on it: image, masks, boxes, masks on the 7 x 7 grid."""
    with (
        np.load(GOLDEN / "freesolo_astronaut.npz") as proposals,
        np.load(GOLDEN / "clip_vit_b32_astronaut.npz") as clip,
    ):
        shape, count = tuple(proposals["pred_masks_shape"]), int(clip["n_freesolo"])
        masks = np.unpackbits(proposals["pred_masks"])[: np.prod(shape)].reshape(shape).astype(bool)
        boxes, grid = clip["boxes"][:count], clip["masks7"][:count]
    with Image.open(GOLDEN / "images" / "astronaut.png") as opened:
        return opened.convert("RGB"), masks, boxes, grid


def relative(got: Array, expected: Array) -> float:
    return float((np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@torch.inference_mode()
def released_trunk(visual: Any, pixels: Tensor, k: int) -> Tensor:
    """All blocks but the last ``k`` on one image (1, 3, 224, 224): (1, 50, width)."""
    tokens = visual._embeds(pixels)
    for block in visual.transformer.resblocks[:-k]:
        tokens = block(tokens)
    return tokens


@torch.inference_mode()
def released_tail(visual: Any, state: Tensor, masks: Tensor, k: int) -> Tensor:
    """The last ``k`` blocks as the release runs them: every token of every mask (N, 7, 7) through all of each: (N, D)."""
    weights = torch.cat([torch.ones(len(masks), 1), masks.flatten(1)], 1)[..., None]
    tokens = state.expand(len(masks), -1, -1)
    for block in visual.transformer.resblocks[-k:]:
        tokens = block(tokens * weights)
    return visual.ln_post(tokens[:, 0]) @ visual.proj


@torch.inference_mode()
def released_visual(clip: Any, image: Image.Image, masks: Array, boxes: Array, k: int = K) -> tuple[Array, Array]:
    """What the released code does on CLIP's visual side for ONE ref, gradients left out: f_G and f_L (N, D).

    It does so again for every ref of the image: resize, trunk, dense tail over all masks; crops cut one by one, and
    encoded in one batch.
    """
    plain = partial(vision.resize, antialias=False)
    tensor = vision.normalize(vision.to_tensor(vision.resize(image, [800])), list(IMAGENET_MEAN), list(IMAGENET_STD))
    grid = plain(torch.from_numpy(masks).float(), [7, 7])
    f_global = released_tail(clip.visual, released_trunk(clip.visual, plain(tensor, [224, 224])[None], k), grid, k)
    source, fill, crops = plain(tensor, [image.height, image.width]), torch.tensor(IMAGENET_MEAN)[:, None, None], []
    windows = crop_windows(boxes, image.height, image.width).tolist()
    for mask, (left, top, right, bottom) in zip(masks, windows, strict=True):
        filled = torch.where(torch.from_numpy(mask), source, fill)
        crops.append(plain(filled[:, top:bottom, left:right], [224, 224]))
    return f_global.numpy(), clip.encode_image(torch.stack(crops)).numpy()


def sparse_masking() -> Result:
    """The masked tail, k = 3, of one image's proposals: every token of every mask, against those that are not zero."""
    visual, masks = model().visual, torch.from_numpy(scene()[3])
    vit, owners = MaskedViT(visual, "token"), np.zeros(len(masks), np.int64)
    state = released_trunk(visual, torch.randn(1, 3, 224, 224), K)

    def plain() -> Tensor:
        return released_tail(visual, state, masks, K)

    @torch.inference_mode()
    def dense() -> Tensor:
        return vit.dense(state, owners, masks, K, 64)

    @torch.inference_mode()
    def ours() -> Tensor:
        return vit.masked(state, owners, masks, K, 64)

    plain_seconds, dense_seconds, ours_seconds = medians(plain, dense, ours)
    kept = float((masks != 0).flatten(1).sum(1).float().mean())
    return Result(
        "sparse_masking",
        plain_seconds,
        ours_seconds,
        error=relative(ours().numpy(), plain().numpy()),
        at_least=3,
        note=f"{len(masks)} masks, {kept:.1f} of 49 patches on average; {dense_seconds / ours_seconds:.1f} times a dense "
        f"tail with only the class token in its last block",
    )


def visual_encode(count: int = 12) -> Result:
    """One image with ``count`` proposals, pixels to features, once: as the release does for each ref, against ours."""
    image, masks, boxes, _ = scene()
    masks, boxes = masks[:count], boxes[:count]
    clip = MaskedClip(model(), open_clip.SimpleTokenizer())

    def plain() -> tuple[Array, Array]:
        return released_visual(model(), image, masks, boxes)

    def ours() -> tuple[Array, Array]:
        found = clip.encode_images([(image, masks, boxes)], [K])[0]
        assert found.local is not None
        return found.by_k[K], found.local

    error = max(relative(got, expected) for got, expected in zip(ours(), plain(), strict=True))
    seconds = medians(plain, ours, repeats=3, warm_up=False)
    note = f"{count} masks; the release repeats it for each ref"
    work = counted(ours, model().visual)
    return Result("visual_encode", *seconds, error=error, note=note, stage="embed_masks", work=work)


def images_at_once(images: int = 8, count: int = 12) -> Result:
    """Images with ``count`` proposals each, two threads: one image after another on both, against one on each."""
    picture, masks, boxes, _ = scene()
    clip = MaskedClip(model(), open_clip.SimpleTokenizer())
    pictures = [picture.rotate(10 * number) for number in range(images)]

    def encode(resized: Resized) -> Array:
        return clip.encode_images([(resized, masks[:count], boxes[:count])], [K])[0].by_k[K]

    def in_turn() -> list[Array]:
        return [encode(resized) for resized in prefetch(clip.shrink, pictures)]

    def at_once() -> list[Array]:
        return list(read_and_compute(clip.shrink, encode, pictures, "cpu", images))

    with threads(THREADS):
        error = max(relative(got, expected) for got, expected in zip(at_once(), in_turn(), strict=True))
        seconds = medians(in_turn, at_once, repeats=3, warm_up=False)
    note = f"{images} images of {count} masks; in turn, two of the next ones are read meanwhile"
    return Result("images_at_once", *seconds, error=error, note=note)


def products() -> Result:
    """A layer of ViT-B/32 on 40 crops' tokens: torch's product against that of `stages.device.linear`, two threads."""
    x, weight = torch.randn(2000, 768), torch.randn(3072, 768)
    with threads(THREADS), torch.inference_mode():
        expected, got = functional.linear(x, weight), linear(x, weight)
        seconds = medians(lambda: functional.linear(x, weight), lambda: linear(x, weight), repeats=15)
    gflop = 2 * x.numel() * len(weight) / 1e9
    rates = " and ".join(f"{gflop / each:.0f}" for each in seconds)
    return Result(
        "products",
        *seconds,
        error=relative(got.numpy(), expected.numpy()),
        note=f"2,000 x 768 x 3,072: {rates} GFLOP/s",
    )


def crops() -> Result:
    """Local views of one image's proposals: a loop over the masks, against all in one gather (the way of a GPU)."""
    image, masks, boxes, _ = scene()
    preprocess = Preprocess(IMAGENET_MEAN, IMAGENET_STD, False, 800, "reference")
    source = preprocess.source_view(preprocess.prepare(image, torch.device("cpu")))
    windows, fill = crop_windows(boxes, image.height, image.width), torch.tensor(IMAGENET_MEAN).view(3, 1, 1)

    def loop() -> Tensor:
        return preprocess.local_views(source, masks, windows, (224, 224))

    def together() -> Tensor:
        return cut_together(source, masks, windows, fill, (224, 224))

    error = float((loop() - together()).abs().max())
    note = f"{len(masks)} masks; error in normalised pixels; a CPU takes the loop"
    return Result("crops", *medians(loop, together), error=error, note=note)
