"""Patches of the dense methods in float64, one head at a time, from the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.visual_oracles import (
    HEADS,
    PATCH,
    Array,
    bilinear,
    layer_norm,
)

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


class Plain:
    """A small transformer of known width, its weights as float64 arrays."""

    def __init__(self, model: Any) -> None:
        self.state = {name: value.double().numpy() for name, value in model.visual.state_dict().items()}
        self.own = tuple(model.visual.grid_size)
        self.depth = len(model.visual.transformer.resblocks)
        self.mean = getattr(model.visual, "image_mean", MEAN)
        self.std = getattr(model.visual, "image_std", STD)

    def tokens(self, image: Image.Image, grid: tuple[int, int], positions: str) -> Array:
        size = (grid[1] * PATCH, grid[0] * PATCH)
        pixels = (np.array(image.resize(size, Image.Resampling.BICUBIC)) / 255 - self.mean) / self.std
        patches = pixels.reshape(grid[0], PATCH, grid[1], PATCH, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3 * PATCH**2)
        kernel = self.state["conv1.weight"]
        x = np.vstack([self.state["class_embedding"], patches @ kernel.reshape(len(kernel), -1).T])
        table = self.state["positional_embedding"]
        cells = table[1:].reshape(*self.own, -1)
        if grid != self.own and positions == "bilinear":
            cells = np.stack([bilinear(cells[..., c], grid) for c in range(cells.shape[2])], -1)
        elif grid != self.own:
            rows, columns = (cubic(n, o, positions) for n, o in zip(grid, self.own, strict=True))
            cells = np.einsum("yr,xc,rcd->yxd", rows, columns, cells)
        x = x + np.vstack([table[:1], cells.reshape(-1, cells.shape[2])])
        return layer_norm(x, self.state, "ln_pre")

    def parts(self, index: int, y: Array) -> list[tuple[Array, Array, Array]]:
        """q, k, v of each head."""
        name = f"transformer.resblocks.{index}.attn"
        qkv = y @ self.state[f"{name}.in_proj_weight"].T + self.state[f"{name}.in_proj_bias"]
        return list(zip(*(np.split(part, HEADS, 1) for part in np.split(qkv, 3, 1)), strict=True))

    def norm(self, index: int, x: Array, which: int) -> Array:
        return layer_norm(x, self.state, f"transformer.resblocks.{index}.ln_{which}")

    def out(self, index: int, heads: list[Array]) -> Array:
        name = f"transformer.resblocks.{index}"
        found = np.concatenate(heads, 1) @ self.state[f"{name}.attn.out_proj.weight"].T
        return (found + self.state[f"{name}.attn.out_proj.bias"]) * self.state.get(f"{name}.ls_1.gamma", 1)

    def rest(self, index: int, x: Array) -> Array:
        """x with what the perceptron adds."""
        name = f"transformer.resblocks.{index}"
        y = self.norm(index, x, 2) @ self.state[f"{name}.mlp.c_fc.weight"].T + self.state[f"{name}.mlp.c_fc.bias"]
        y = y / (1 + np.exp(-1.702 * y))
        y = y @ self.state[f"{name}.mlp.c_proj.weight"].T + self.state[f"{name}.mlp.c_proj.bias"]
        return x + y * self.state.get(f"{name}.ls_2.gamma", 1)

    def block(self, index: int, x: Array) -> Array:
        heads = self.parts(index, self.norm(index, x, 1))
        return self.rest(index, x + self.out(index, [softmax(q @ k.T / len(q.T) ** 0.5) @ v for q, k, v in heads]))

    def trunk(self, x: Array, blocks: int) -> Array:
        for index in range(blocks):
            x = self.block(index, x)
        return x

    def finish(self, x: Array) -> Array:
        return layer_norm(x, self.state, "ln_post") @ self.state["proj"]


def cubic(new: int, old: int, positions: str) -> Array:
    """One axis of a bicubic resize (new, old), as torch defines it without and with antialias."""

    def kernel(x: float, a: float) -> float:
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    matrix = np.zeros((new, old))
    for row in range(new):
        if positions == "bicubic_scaled":
            place = (row + 0.5) * old / (new + 0.1) - 0.5
            for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
                matrix[row, min(max(tap, 0), old - 1)] += kernel(place - tap, -0.75)
        else:
            stretch = max(old / new, 1)
            for tap in range(old):
                matrix[row, tap] = kernel((tap + 0.5 - (row + 0.5) * old / new) / stretch, -0.5)
            matrix[row] /= matrix[row].sum()
    return matrix


def gaussian(grid: tuple[int, int]) -> Array:
    omega = np.zeros((1 + grid[0] * grid[1],) * 2)
    for i, a in enumerate(np.ndindex(*grid)):
        for j, b in enumerate(np.ndindex(*grid)):
            omega[1 + i, 1 + j] = np.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / 50)
    return omega


def plain_patches(model: Any, image: Image.Image, method: str, grid: tuple[int, int]) -> Array:
    plain = Plain(model)
    rules = {"gem": "bicubic_antialias", "clip_surgery": "bilinear"}
    x = plain.tokens(image, grid, rules.get(method, "bicubic_scaled"))
    last = plain.depth - 1
    if method in ("gem", "clip_surgery"):
        start = max(plain.depth - 6, 0)
        x = plain.trunk(x, start)
        second = x.copy()
        for index in range(start, plain.depth):
            y = plain.norm(index, x, 1)
            heads = plain.parts(index, y)
            scale = len(heads[0][0].T) ** -0.5
            if method == "gem":
                tau = np.linalg.norm(y, axis=1).mean() * scale
                found = []
                for q, k, v in heads:
                    each = []
                    for u in map(unit, (q, k, v)):
                        drawn = unit(softmax(tau * u @ u.T) @ u)
                        each.append(softmax(tau * drawn @ drawn.T) @ v)
                    found.append(sum(each) / 3)
            else:
                found = [softmax(scale * v @ v.T) @ v for _, _, v in heads]
            second = second + plain.out(index, found)
            x = plain.block(index, x)
        return plain.finish(second[1:])
    x = plain.trunk(x, last)
    heads = plain.parts(last, plain.norm(last, x, 1))
    scale = len(heads[0][0].T) ** -0.5
    attended = {
        "mask_clip": lambda q, k, v: v,
        "sclip": lambda q, k, v: (softmax(scale * q @ q.T) + softmax(scale * k @ k.T)) @ v,
        "clear_clip": lambda q, k, v: softmax(scale * q @ q.T) @ v,
        "nac_clip": lambda q, k, v: softmax(scale * k @ k.T + gaussian(grid)) @ v,
    }[method]
    found = plain.out(last, [attended(*head) for head in heads])
    if method == "sclip":
        found = plain.rest(last, x + found)
    return plain.finish(found[1:])
