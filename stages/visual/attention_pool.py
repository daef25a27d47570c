"""Heat maps of CLIP's ResNet: its attention pool as a linear map. Formulas and sources: docs/methods.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stages.visual.mask_encoder import MaskEncoder
from stages.visual.passes import floats
from stages.visual.preprocess import Prepared

LOGIT_SCALE = 100.0
"""Grad-CAM is a derivative of 100 cos(f, t)."""


@torch.inference_mode()
def score_map(encoder: MaskEncoder, image: Prepared, *, bias: bool = True) -> NDArray[np.float32]:
    """The vector of each cell, whose cosine with a text is the score map: unit rows, float32 (P, D).

    Each cell goes through the value and the output projection as if it alone were attended to; no position is added.
    ``bias``: whether the two keep theirs.
    """
    pool, cells = encoder.model.visual.attnpool, feature_map(encoder, image)
    for layer in (pool.v_proj, pool.c_proj):
        cells = functional.linear(cells, layer.weight, layer.bias if bias else None)
    return floats(functional.normalize(cells, dim=1))


@torch.inference_mode()
def grad_cam(encoder: MaskEncoder, image: Prepared) -> NDArray[np.float32]:
    """The vector of each cell, whose product with a unit text is the Grad-CAM map: float32 (P, D).

    g_p = (100 / |f|) (j_p - (j_p . f^) f^) with f what the pool answers and j_p its derivative along A_p / P at every
    cell, A being the map with unit cells. The derivative is taken at the raw map.
    """
    cells = feature_map(encoder, image)
    pooled, change = pooled_and_derivative(encoder.model.visual.attnpool, cells, functional.normalize(cells, dim=1))
    unit = functional.normalize(pooled, dim=0)
    return floats(LOGIT_SCALE / (len(cells) * pooled.norm()) * (change - (change @ unit)[:, None] * unit))


def feature_map(encoder: MaskEncoder, image: Prepared) -> Tensor:
    """The last feature map of the whole image, squashed to the input size: raw, row by row, (P, C)."""
    tower: Any = encoder.tower
    pixels = encoder.pixels.global_view(image, tower.input_size).to(encoder.dtype)
    cells: Tensor = tower.feature_map(pixels)[0].flatten(1).T
    return cells


def pooled_and_derivative(pool: Any, cells: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """The attention pool's answer f (D,), and how f changes as ``shifts`` (S, C) are added to EVERY cell: (S, D).

    ``cells`` (P, C) raw. A shift of all cells shifts all tokens, their mean included, alike. It moves every value by the
    same W_v delta; of the logits s q_0 . k_j only what the query's own change adds, s (W_q delta) . k_j, is not the same
    for all tokens, and shares alpha change by alpha_j times what lies above its mean. So a head's answer changes by
    W_v delta + s Cov' W_q delta, with Cov = sum_j alpha_j (k_j - mean k)' (v_j - mean v): one small matrix a head.
    """
    heads = (pool.num_heads, -1)
    tokens = torch.cat([cells.mean(0, keepdim=True), cells]) + pool.positional_embedding.to(cells.dtype)
    query = pool.q_proj(tokens[:1]).unflatten(1, heads).transpose(0, 1)  # (heads, 1, d)
    key, value = (layer(tokens).unflatten(1, heads).transpose(0, 1) for layer in (pool.k_proj, pool.v_proj))
    scale = query.shape[2] ** -0.5
    shares = (scale * query @ key.mT).softmax(2)
    mean_key, answer = shares @ key, shares @ value
    covariance = (shares.mT * (key - mean_key)).mT @ (value - answer)
    asked, carried = (
        functional.linear(shifts, layer.weight).unflatten(1, heads).transpose(0, 1)
        for layer in (pool.q_proj, pool.v_proj)
    )
    change = carried + scale * asked @ covariance
    return pool.c_proj(answer.flatten()), functional.linear(change.transpose(0, 1).flatten(1), pool.c_proj.weight)
