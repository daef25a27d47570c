"""Region tokens of a CLIP vision transformer: one more class token for each mask (Adapting CLIP; docs/methods.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stages.visual.blocks import run_block
from stages.visual.mask_encoder import MaskEncoder
from stages.visual.passes import floats
from stages.visual.pooling import area_shares
from stages.visual.preprocess import Prepared


@torch.inference_mode()
def region_tokens(
    encoder: MaskEncoder, image: Prepared, masks: NDArray[np.bool_], *, reference: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The vector of each mask bool (N, H, W), float32 (N, D), raw; and which masks have no cell, bool (N,).

    A region token starts as the class token does and in every block attends to itself and to the patches of its mask;
    patches and class token run as ever. One without a cell attends to itself alone: the same vector for any image.

    Args:
        reference: patches and cells as the release has them (`embedded_as_released`, `sampled_cells`); otherwise
            CLIP's own patches, and the cells that a mask covers (`covered_cells`).
    """
    visual: Any = encoder.model.visual
    grid = encoder.tower.grid
    pixels = encoder.pixels.global_view(image, encoder.tower.input_size).to(encoder.dtype)
    cells = sampled_cells(masks, grid) if reference else covered_cells(masks, grid)
    tokens = embedded_as_released(visual, pixels) if reference else visual._embeds(pixels)
    vectors = [np.zeros((0, encoder.dim), np.float32)]
    for part in torch.from_numpy(cells.reshape(len(masks), -1)).split(encoder.batch) if len(masks) else ():
        regions = part.to(encoder.device)
        states = torch.cat([tokens, tokens[:, :1].expand(-1, len(regions), -1)], 1)
        bias = attention_bias(regions, states.dtype)
        for block in visual.transformer.resblocks:
            states = run_block(block, states, bias)
        vectors.append(floats(visual.ln_post(states[0, tokens.shape[1] :]) @ visual.proj))
    return np.concatenate(vectors), np.logical_not(cells.any(axis=(1, 2)))


def attention_bias(cells: Tensor, dtype: torch.dtype) -> Tensor:
    """The attention mask of class token, patches and N region tokens with ``cells`` bool (N, P), added to logits.

    (1, 1 + P + N, 1 + P + N): only a region token itself attends to it, and it does not attend to the class token.
    """
    regions, patches = cells.shape
    seen = torch.ones(1 + patches + regions, 1 + patches + regions, dtype=torch.bool, device=cells.device)
    seen[:, 1 + patches :] = False
    seen[1 + patches :, 0] = False
    seen[1 + patches :, 1 : 1 + patches] = cells
    seen.fill_diagonal_(True)
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))[None]


def embedded_as_released(visual: Any, pixels: Tensor) -> Tensor:
    """What enters the first block, (1, 1 + P, width), from pixels (1, 3, h, w).

    The release pads the patch convolution by (patch - 1) // 2: patch i sees the rows from i * patch - that number on, zeros
    before the first, and the last ones are never seen. It keeps the position table in float16.
    """
    before = [(length - 1) // 2 for length in visual.patch_size]
    shifted = functional.pad(pixels, (before[1], -before[1], before[0], -before[0]))
    patches = visual.conv1(shifted).flatten(2).mT
    tokens = torch.cat([visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1), patches], 1)
    embedded: Tensor = visual.ln_pre(tokens + visual.positional_embedding.half().to(patches.dtype))
    return embedded


def sampled_cells(masks: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """The release's cells of masks bool (N, H, W): whether pixel (floor(i H / rows), floor(j W / columns)) is in. (N, *grid)"""
    row, column = (np.arange(cells) * length // cells for length, cells in zip(masks.shape[1:], grid, strict=True))
    return masks[:, row[:, None], column]


def covered_cells(masks: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """The cells that masks bool (N, H, W) cover by half or more, or if there is none the one covered most: bool (N, *grid).

    Only an empty mask has no cell.
    """
    shares = area_shares(masks, grid)
    flat = shares.reshape(len(masks), -1)
    most = (np.arange(flat.shape[1]) == flat.argmax(1)[:, None]) & (flat > 0)
    cells: NDArray[np.bool_] = np.where((flat >= 0.5).any(1, keepdims=True), flat >= 0.5, most)
    return cells.reshape(shares.shape)
