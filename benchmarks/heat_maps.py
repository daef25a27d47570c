"""Heat maps as one vector a mask: the mean by pooling weights, and Grad-CAM in closed form, against a map for every text."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from torch.nn import functional

from benchmarks.harness import Result, medians
from benchmarks.visual import scene
from stages.visual import attention_pool
from stages.visual.encoder import MaskedClip
from stages.visual.pooling import pooling_weights

TEXTS, PHRASES, GRID, WIDTH = 9, 40, 14, 512
Array = np.ndarray[Any, Any]


def pooling(repeats: int = 5) -> Result:
    """Means inside 38 masks of the heat maps of nine texts on a grid of 14 x 14: each map upsampled, or by weights."""
    image, masks, _, _ = scene()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((GRID * GRID, WIDTH), np.float32)
    texts = rng.standard_normal((TEXTS, WIDTH), np.float32)
    selected = [torch.from_numpy(mask) for mask in masks]

    @torch.inference_mode()
    def plain() -> Array:
        means = []
        for text in texts:
            heat = torch.from_numpy(vectors @ text).reshape(1, 1, GRID, GRID)
            map_ = functional.interpolate(heat, (image.height, image.width), mode="bilinear", align_corners=False)
            means.append([float(map_[0, 0][mask].mean()) for mask in selected])
        return np.array(means)

    def ours() -> Array:
        weights, _ = pooling_weights(masks, (GRID, GRID))
        return texts @ (weights @ vectors).T

    error = float(np.abs(ours() - plain()).max() / np.abs(plain()).max())
    before, after = medians(plain, ours, repeats=repeats)
    note = f"{len(masks)} masks, {TEXTS} texts, image of {image.height} x {image.width}"
    return Result("pooling", before, after, error=error, at_least=20, note=note)


def grad_cam(repeats: int = 3) -> Result:
    """Means inside 38 masks of Grad-CAM on RN50's last map for 40 texts: a backward pass and a map each, or in closed form.

    The trunk's one pass is left out of both, though the release runs it for every text.
    """
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config("RN50-quickgelu")).eval().requires_grad_(False)
    image, masks, _, _ = scene()
    clip = MaskedClip(model, open_clip.SimpleTokenizer())
    prepared = clip.prepare(image)
    cells = attention_pool.feature_map(clip, prepared).clone()
    texts = np.random.default_rng(0).standard_normal((PHRASES, clip.dim)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    selected = [torch.from_numpy(mask) for mask in masks]
    side = int(len(cells) ** 0.5)

    def plain() -> Array:
        features = cells.T.reshape(1, -1, side, side).clone().requires_grad_()
        pooled = model.visual.attnpool(features)[0]
        means = []
        for text in torch.from_numpy(texts):
            logit = 100 * functional.cosine_similarity(pooled, text, dim=0)
            (gradient,) = torch.autograd.grad(logit, features, retain_graph=True)
            heat = (gradient.mean((2, 3), keepdim=True) * functional.normalize(features.detach(), dim=1)).sum(1)[None]
            map_ = functional.interpolate(heat, (image.height, image.width), mode="bilinear", align_corners=False)
            means.append([float(map_[0, 0][mask].mean()) for mask in selected])
        return np.array(means)

    def ours() -> Array:
        weights, _ = pooling_weights(masks, (side, side))
        return texts @ (weights @ attention_pool.grad_cam(clip, prepared)).T

    original = attention_pool.feature_map
    attention_pool.feature_map = lambda encoder, picture: cells
    try:
        error = float(np.abs(ours() - plain()).max() / np.abs(plain()).max())
        before, after = medians(plain, ours, repeats=repeats)
    finally:
        attention_pool.feature_map = original
    note = f"{len(masks)} masks, {PHRASES} texts, without the trunk"
    return Result("grad_cam", before, after, error=error, at_least=50, note=note)
