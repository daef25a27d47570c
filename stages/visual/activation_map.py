"""CLIP-ES's class activation map of a vision transformer (Lin et al., CVPR 2023, sec. 3), and its refinement.

With A = ln_1 of the last block's input, f^ = unit(mean over patches of ln_post(x) proj) and unit texts t_j, the target t_0:

    p = softmax(scale f^.t_j),   w = mean over patches of dp_0 / dA,   CAM = min-max(ReLU(A w))

dp_0 / df^ = scale p_0 (t_0 - sum_j p_j t_j) = scale p_0 sum_j p_j (t_0 - t_j); the factor scale p_0 > 0 cancels in the min-max,
and is left out, so that an unlikely target has a map. f^ depends on A through the last block alone, its residual
connection aside: one pass back through that block for each text, and none through the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stages.visual.blocks import run_block
from stages.visual.dense import Size, position_table, squashed, transformer
from stages.visual.mask_encoder import MaskEncoder

DEEP = 8
"""Over how many last blocks attention is averaged; all blocks of a shallower encoder."""
_ROUNDS = 3
Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Activations:
    """What an image has for any texts.

    Attributes:
        grid: (rows, columns) of its P patches. seen: A, (1, 1 + P, width), with the graph of what follows.
        pooled: f before it is made unit, (D,), a function of ``seen``.
        affinity: how patches answer to each other, float32 (P, P), see `affinity_of`; (0, 0) where none is wanted.
    """

    grid: Size
    seen: Tensor
    pooled: Tensor
    affinity: Map

    @classmethod
    def of(cls, encoder: MaskEncoder, image: Image.Image, longest: int, affinity: bool) -> Activations:
        """One forward pass of the whole image (PIL RGB) at the next multiples of the patch size.

        Args:
            longest: its long side at most, pixels; a longer image is shrunk.

        Raises:
            ParameterError: the encoder is none of open_clip's transformers with plain attention.
        """
        visual = transformer(encoder, "clip_es")
        grid = grid_of(image, visual.patch_size, longest)
        attention: list[Tensor] = []
        deep = visual.transformer.resblocks[-DEEP:] if affinity else []
        with torch.no_grad():  # not inference mode: its tensors may take no part in the last block's graph
            states = _entered(encoder, visual, image, grid)
            for block in visual.transformer.resblocks:
                if block in deep:
                    attention.append(_attention(block, states))
                if block is not visual.transformer.resblocks[-1]:
                    states = run_block(block, states)
        last = visual.transformer.resblocks[-1]
        seen = last.ln_1(states).detach().requires_grad_()
        with torch.enable_grad():
            pooled = _last_block(visual, last, states, seen)
        matrix = affinity_of(torch.stack(attention).mean(0)) if affinity else np.zeros((0, 0), np.float32)
        return cls(grid, seen, pooled, matrix)

    def map_of(self, texts: NDArray[np.float64], scale: float) -> Map:
        """The map of ``texts[0]`` against all unit ``texts`` float64 (M, D): float32 (rows, columns), 0 to 1; 0 where no
        patch speaks for it.

        ``scale``: of the logits, 100 for CLIP.
        """
        pooled = self.pooled.detach().double().cpu().numpy()
        unit = pooled / np.linalg.norm(pooled)
        logits = scale * (texts @ unit)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        toward = shares @ (texts[0] - texts)
        toward = toward - (toward @ unit) * unit
        length = np.linalg.norm(toward)
        if not length > 0:
            return np.zeros(self.grid, np.float32)
        direction = torch.from_numpy(toward / length).to(self.pooled)
        (gradient,) = torch.autograd.grad(self.pooled, self.seen, direction, retain_graph=True)
        weights = gradient[0, 1:].float().mean(0)
        heat = (self.seen.detach()[0, 1:].float() @ weights).clamp_min(0)
        return min_max(heat.cpu().numpy().reshape(self.grid))


def grid_of(image: Image.Image, patch: Size, longest: int) -> Size:
    """Rows and columns of patches of an image, at its own size or shrunk to ``longest``, rounded up."""
    share = min(1.0, longest / max(image.size))
    return ceil(round(image.height * share) / patch[0]) or 1, ceil(round(image.width * share) / patch[1]) or 1


def min_max(heat: Map) -> Map:
    """``heat`` from 0 to 1; 0 where it is the same everywhere."""
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def _entered(encoder: MaskEncoder, visual: VisionTransformer, image: Image.Image, grid: Size) -> Tensor:
    """What enters the first block: (1, 1 + P, width). The position table is resized as CLIP-ES does, bilinear."""
    size = grid[0] * visual.patch_size[0], grid[1] * visual.patch_size[1]
    cells = visual.conv1(squashed(image, size, visual).to(encoder.device, encoder.dtype))
    tokens = torch.cat([visual.class_embedding.to(encoder.dtype).expand(1, 1, -1), cells.flatten(2).mT], 1)
    return visual.ln_pre(tokens + position_table(visual, grid, "bilinear").to(encoder.dtype))


def _heads(block: ResidualAttentionBlock, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (1, heads, T, width / heads), by operations that have a derivative."""
    attn = block.attn
    projected = functional.linear(seen, attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = projected.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _attention(block: ResidualAttentionBlock, states: Tensor) -> Tensor:
    """Attention from patch to patch, the mean of the heads: (P, P), rows the asking ones."""
    query, key, _ = _heads(block, block.ln_1(states))
    weights = (query @ key.mT * query.shape[-1] ** -0.5).float().softmax(-1)
    return weights[0].mean(0)[1:, 1:]


def _last_block(visual: VisionTransformer, last: ResidualAttentionBlock, states: Tensor, seen: Tensor) -> Tensor:
    """f of ``seen`` = ln_1(states): (D,), not yet unit."""
    attended = functional.scaled_dot_product_attention(*_heads(last, seen)).transpose(1, 2).flatten(2)
    out = last.attn.out_proj
    tokens = states + last.ls_1(functional.linear(attended, out.weight, out.bias))
    tokens = tokens + last.ls_2(last.mlp(last.ln_2(tokens)))
    return visual.ln_post(tokens[0, 1:]).mean(0) @ visual.proj


def affinity_of(attention: Tensor) -> Map:
    """From attention (P, P) the matrix that spreads a map: Sinkhorn's columns and rows `_ROUNDS` times, symmetric, squared."""
    matrix = attention.float()
    for _ in range(_ROUNDS):
        matrix = matrix / matrix.sum(0, keepdim=True)
        matrix = matrix / matrix.sum(1, keepdim=True)
    matrix = (matrix + matrix.T) / 2
    spread: Map = (matrix @ matrix).cpu().numpy()
    return spread


def refined(heat: Map, affinity: Map, threshold: float) -> Map:
    """``heat`` (rows, columns) spread by ``affinity`` (P, P) from the cells of its boxes: min-max(T (heat in the boxes))."""
    sources = np.where(boxed(heat >= threshold * heat.max()), heat, 0).ravel()
    return min_max((affinity.astype(np.float64) @ sources).astype(np.float32).reshape(heat.shape))


def boxed(high: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells of the bounding boxes of the connected parts of ``high`` (rows, columns), eight neighbours a cell."""
    inside, left = np.zeros_like(high), set(map(tuple, np.argwhere(high).tolist()))
    while left:
        waiting = [left.pop()]
        top, first = bottom, last = waiting[0]
        while waiting:
            row, column = waiting.pop()
            top, bottom = min(top, row), max(bottom, row)
            first, last = min(first, column), max(last, column)
            near = {(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
            left -= near
            waiting += near
        inside[top : bottom + 1, first : last + 1] = True
    return inside
