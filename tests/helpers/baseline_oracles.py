"""Heat maps and region tokens of a small encoder, plainly: dense maps, autograd, a loop over masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from tests.helpers.visual_oracles import (
    DEPTH,
    GRID,
    HEADS,
    PATCH,
    SIDE,
    WIDTH,
    Array,
    H,
    W,
    attend,
    imagenet,
    layer_norm,
    resized,
)


def raw_map(model: Any, picture: Image.Image) -> torch.Tensor:
    """The ResNet's last map, float32 (1, C, 3, 3), by its own stages."""
    features = torch.from_numpy(resized(imagenet(picture), (96, 96)).astype(np.float32))[None]
    visual = model.visual
    for stage in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        features = stage(features)
    return features


def means(heat: torch.Tensor, masks: Array, outside: bool) -> Array:
    """Means of a map (T, h, w), upsampled to the image, inside each mask; less those outside. (N, T)"""
    up = functional.interpolate(heat.double()[None], (H, W), mode="bilinear", align_corners=False)[0].detach().numpy()
    return np.array([up[:, m].mean(1) - (up[:, ~m].mean(1) if outside else 0) for m in masks])


def plain_score_map(model: Any, picture: Image.Image, texts: torch.Tensor, variant: str) -> torch.Tensor:
    """DenseCLIP's: the value and output projections as 1 x 1 convolutions."""
    pool, features = model.visual.attnpool, raw_map(model, picture)
    for layer in (pool.v_proj, pool.c_proj):
        bias = layer.bias if variant == "clip" else None
        features = functional.conv2d(features, layer.weight[:, :, None, None], bias)
    return torch.einsum("dyx,td->tyx", functional.normalize(features, dim=1)[0], texts)


def plain_grad_cam(model: Any, picture: Image.Image, texts: torch.Tensor, variant: str) -> torch.Tensor:
    """A backward pass for every text."""
    features = raw_map(model, picture).detach().requires_grad_()
    pooled = model.visual.attnpool(features)[0]
    maps = []
    for text in texts:
        logit = 100 * functional.cosine_similarity(pooled, text, dim=0)
        (gradient,) = torch.autograd.grad(-logit if variant == "released" else logit, features, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * functional.normalize(features, dim=1)).sum(1)[0])
    return torch.stack(maps)


def plain_region_token(model: Any, pixels: Array, cells: Array, reference: bool) -> Array:
    """The token (D,) of one mask (GRID, GRID), float64: patches first, then the token block by block."""
    state = {name: value.double().numpy() for name, value in model.visual.state_dict().items()}
    if reference:  # a convolution with padding 3 = (8 - 1) // 2
        padded = np.pad(pixels, ((0, 0), (3, 3), (3, 3)))
        pixels = padded[:, :SIDE, :SIDE]
        state["positional_embedding"] = state["positional_embedding"].astype(np.float16).astype(np.float64)
    patches = pixels.reshape(3, GRID, PATCH, GRID, PATCH).transpose(1, 3, 0, 2, 4).reshape(GRID * GRID, -1)
    x = np.vstack([state["class_embedding"], patches @ state["conv1.weight"].reshape(WIDTH, -1).T])
    x = layer_norm(x + state["positional_embedding"], state, "ln_pre")
    token = x[:1]
    for index in range(DEPTH):
        name = f"transformer.resblocks.{index}"
        own = np.vstack([x[1:][cells.ravel()], token])
        token = oracle_block(state, name, token, own)
        x = oracle_block(state, name, x, x)
    return layer_norm(token[0], state, "ln_post") @ state["proj"]


def oracle_block(state: dict[str, Array], name: str, x: Array, seen: Array) -> Array:
    """One block for tokens ``x`` (T, width) that attend to ``seen`` (S, width)."""
    weights = np.split(state[f"{name}.attn.in_proj_weight"], 3)
    biases = np.split(state[f"{name}.attn.in_proj_bias"], 3)
    inputs = [layer_norm(each, state, f"{name}.ln_1") for each in (x, seen, seen)]
    q, k, v = (each @ w.T + b for each, w, b in zip(inputs, weights, biases, strict=True))
    y = attend(q, k, v, HEADS, np.ones((len(x), len(seen)), dtype=bool))
    x = x + y @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
    y = layer_norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
    y = y / (1 + np.exp(-1.702 * y))
    return x + y @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]


def plain_cells(mask: Array, reference: bool) -> Array:
    """The cells of a mask (H, W): a loop over them; by area, each pixel is cut into GRID x GRID equal pieces."""
    cells, pieces = np.zeros((GRID, GRID)), mask.repeat(GRID, 0).repeat(GRID, 1)
    for i, j in np.ndindex(GRID, GRID):
        if reference:
            cells[i, j] = mask[i * H // GRID, j * W // GRID]
        else:
            cells[i, j] = pieces[i * H : (i + 1) * H, j * W : (j + 1) * W].mean()
    fullest = (np.arange(cells.size) == cells.argmax()).reshape(cells.shape)
    return cells >= 0.5 if (cells >= 0.5).any() else fullest & (cells > 0)
