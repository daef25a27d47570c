"""Tiny random CLIPs and plainly written oracles (float64 NumPy, from the formulas) for the tests of the visual side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as reference

from stages.visual.encoder import MaskedClip

WIDTH, HEADS, DEPTH, GRID, PATCH, SIDE = 64, 2, 4, 4, 8, 32
H, W = 40, 50
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH, "image_size": SIDE}
RESNET = {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "image_size": 96}
Array = NDArray[Any]


def random_model(vision: dict[str, Any], **options: Any) -> Any:
    """A CLIP in which no parameter keeps its start value, so that a forgotten bias or scale shows."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT, **options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clip_of(model: Any, **options: Any) -> MaskedClip:
    return MaskedClip(model, open_clip.SimpleTokenizer(), short_side=60, **options)


def some_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8))


def some_masks() -> Array:
    """Seven masks: row 3 is too small for the grid, row 6 is empty."""
    masks = np.zeros((7, H, W), dtype=bool)
    masks[0, 5:30, 10:45] = True
    masks[1, :, :25] = True
    masks[2] = True
    masks[3, 20, 20] = True
    masks[4, 0:12, 0:12] = masks[4, 28:, 30:] = True
    masks[5] = np.random.default_rng(1).random((H, W)) < 0.5
    return masks


def some_boxes() -> Array:
    return np.array(
        [[9.5, 4.5, 44.5, 29.5], [-0.5, -0.5, 24.5, 39.5], [-0.5, -0.5, 49.5, 39.5], [19.5, 19.5, 20.5, 20.5],
         [8.7, 9.2, 31.1, 28.8], [3, 4, 47, 38], [0, 0, 0, 0]]
    )  # fmt: skip


def relative(got: Array, expected: Array) -> float:
    return float((np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max(initial=0))


def bilinear(plane: Array, size: tuple[int, int]) -> Array:
    """One plane at ``size``: align_corners false, four neighbours, no antialias."""
    out = np.zeros(size)
    for y, x in np.ndindex(*size):
        at = [max((i + 0.5) * old / new - 0.5, 0) for i, old, new in zip((y, x), plane.shape, size, strict=True)]
        (top, fy), (left, fx) = ((int(a), a - int(a)) for a in at)
        bottom, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
        upper = plane[top, left] * (1 - fx) + plane[top, right] * fx
        lower = plane[bottom, left] * (1 - fx) + plane[bottom, right] * fx
        out[y, x] = upper * (1 - fy) + lower * fy
    return out


def layer_norm(x: Array, state: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(q: Array, k: Array, v: Array, heads: int, allowed: Array) -> Array:
    """Multi-head attention of (T, width) projections; ``allowed`` (T, T) says which key a query may see."""
    parts = []
    for h in np.split(np.arange(q.shape[1]), heads):
        logits = np.where(allowed, q[:, h] @ k[:, h].T / np.sqrt(len(h)), -np.inf)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        parts.append(weights / weights.sum(1, keepdims=True) @ v[:, h])
    return np.concatenate(parts, axis=1)


def oracle_vit(model: Any, pixels: Array, soft: Array, k: int, masking: str) -> Array:
    """The global feature (D,) of one mask (GRID, GRID) for ``pixels`` (3, SIDE, SIDE)."""
    state = {name: value.double().numpy() for name, value in model.visual.state_dict().items()}
    patches = pixels.reshape(3, GRID, PATCH, GRID, PATCH).transpose(1, 3, 0, 2, 4).reshape(GRID * GRID, -1)
    x = np.vstack([state["class_embedding"], patches @ state["conv1.weight"].reshape(WIDTH, -1).T])
    x = layer_norm(x + state["positional_embedding"], state, "ln_pre")
    weight = np.append(1, soft.ravel())[:, None]
    for index in range(DEPTH):
        name = f"transformer.resblocks.{index}"
        allowed = np.ones((len(x), len(x)), dtype=bool)
        if index >= DEPTH - k and masking == "token":
            x = x * weight
        elif index >= DEPTH - k:
            allowed[0] = weight[:, 0] != 0
        y = layer_norm(x, state, f"{name}.ln_1")
        qkv = y @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
        q, key, v = np.split(qkv, 3, axis=1)
        y = attend(q, key, v, HEADS, allowed)
        x = x + y @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        y = layer_norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
        y = y / (1 + np.exp(-1.702 * y))
        x = x + y @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    return layer_norm(x[0], state, "ln_post") @ state["proj"]


def oracle_pool(model: Any, features: Array) -> Array:
    """CLIP's attention pooling of (C, h, w) features: the mean over positions asks, mean and positions answer."""
    state = {name: value.double().numpy() for name, value in model.visual.attnpool.state_dict().items()}
    x = features.reshape(len(features), -1).T
    x = np.vstack([x.mean(0), x]) + state["positional_embedding"]
    q, k, v = (x @ state[f"{p}_proj.weight"].T + state[f"{p}_proj.bias"] for p in "qkv")
    pooled = attend(q, k, v, model.visual.attnpool.num_heads, np.ones((len(x), len(x)), dtype=bool))[0]
    return pooled @ state["c_proj.weight"].T + state["c_proj.bias"]


def normalised(image: Image.Image, mean: Any, std: Any, short_side: int = 60) -> torch.Tensor:
    return reference.normalize(reference.to_tensor(reference.resize(image, [short_side])), mean, std)


def imagenet(image: Image.Image) -> torch.Tensor:
    return normalised(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def resized(tensor: torch.Tensor, size: tuple[int, int]) -> Array:
    return np.stack([bilinear(plane, size) for plane in tensor.double().numpy()])


def local_oracle(encode: Callable[..., torch.Tensor], source: Array, masks: Array, boxes: Array, side: int) -> Array:
    rows = []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        filled = source.copy()
        for channel, colour in enumerate((0.485, 0.456, 0.406)):
            filled[channel][~mask] = colour
        crop = filled[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        view = resized(torch.from_numpy(crop), (side, side)).astype(np.float32)
        with torch.inference_mode():
            rows.append(encode(torch.from_numpy(view)[None])[0].numpy())
    return np.array(rows)
