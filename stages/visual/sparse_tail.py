"""The masked blocks of a vision transformer without the tokens that the masks make zero; nothing is approximated.

Before each masked block a patch whose mask value is 0 is the zero vector, whichever patch it is (Yu et al., CVPR 2023,
sec. 3.2). LayerNorm makes one constant of all of these, so their keys and their values are equal, and in attention n
equal tokens weigh what one weighs whose logit has log(n) added. What a block makes of them is zeroed again before the
next, and after the last only the class token is read. So ONE zero token stands for those of all masks.

Two savings more. In the first masked block, tokens of the same patch and the same mask value (nine in ten are exactly
1) are equal, and have their queries, keys and values computed once. In the last, only the class token asks
(`attend_once`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from stages.visual.attention import attend_once
from store.ragged import offsets_of

BUCKET = 8
"""Masks attend together whose numbers of tokens round up to the same multiple; of 1 to 64, 4 to 16 measured best."""


@dataclass(frozen=True, eq=False)
class Group:
    """Masks of about the same size, padded to T tokens each.

    Attributes:
        masks: which of the packed masks.
        rows: int64 (n, 1 + T), packed rows that a mask attends to: the zero token, its own tokens, padding.
        bias: (n, 1 + T), added to their logits: the log of how many patches the zero token stands for, 0, -inf.
        kept: int64, which of the n x T rows after the zero token are no padding.
    """

    masks: slice
    rows: Tensor
    bias: Tensor
    kept: Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """The tokens of N masks one after another, R rows in all: the zero token, then those of each mask, class token first.

    Attributes:
        order: int64 (N,), the mask that each packed mask is: by number of tokens.
        source: int64 (U,), the token of the images that each distinct row is made of, and ``source_weight`` (U, 1).
        distinct: int64 (R,), the distinct row that each row equals before the first masked block.
        weight: (R, 1), the mask value of each row: 0 for the zero token, 1 for class tokens.
        classes: int64 (N,), the row of each packed mask's class token.
        groups: in the order of the packed masks.
    """

    order: Tensor
    source: Tensor
    source_weight: Tensor
    distinct: Tensor
    weight: Tensor
    classes: Tensor
    groups: list[Group]


def pack(weights: NDArray[np.float32], owners: NDArray[np.int64], like: Tensor) -> Packed:
    """Pack masks ``weights`` (N, patches) in [0, 1] of the images ``owners`` (N,).

    The weights must be as they are in the dtype of ``like``; that one and its device are those of the result.
    """
    count, patches = weights.shape
    lengths = 1 + np.count_nonzero(weights, axis=1)
    order = np.argsort(lengths, kind="stable")
    lengths, weights, owners = lengths[order], weights[order], owners[order]
    full = np.concatenate([np.ones((count, 1), np.float32), weights], axis=1)
    mask, token = np.nonzero(full)
    weight = np.concatenate([np.zeros(1, np.float32), full[mask, token]])
    source = np.concatenate([np.zeros(1, np.int64), owners[mask] * (1 + patches) + token])
    # Mask values are not negative, so equal bits are equal values.
    keys = source << 32 | weight.view(np.uint32).astype(np.int64)
    _, first, distinct = np.unique(keys, return_index=True, return_inverse=True)
    starts = 1 + offsets_of(lengths)[:-1]
    return Packed(
        _rows(order, like),
        _rows(source[first], like),
        _values(weight[first, None], like),
        _rows(distinct, like),
        _values(weight[:, None], like),
        _rows(starts, like),
        _grouped(lengths, starts, patches, like),
    )


def _grouped(lengths: NDArray[np.int64], starts: NDArray[np.int64], patches: int, like: Tensor) -> list[Group]:
    padded = -(-lengths // BUCKET) * BUCKET
    groups = []
    for length in np.unique(padded).tolist():
        begin, end = np.searchsorted(padded, [length, length + 1]).tolist()
        own, place = lengths[begin:end, None], np.arange(length)
        rows = np.where(place < own, starts[begin:end, None] + place, 0)
        with np.errstate(divide="ignore"):  # no zero patch: log 0 = -inf, the zero token has no share
            bias = np.concatenate([np.log(1.0 + patches - own), np.where(place < own, 0, -np.inf)], axis=1)
        groups.append(
            Group(
                slice(begin, end),
                _rows(np.concatenate([np.zeros_like(own), rows], axis=1), like),
                _values(bias.astype(np.float32), like),
                _rows(np.flatnonzero(place < own), like),
            )
        )
    return groups


def sparse_tail(blocks: Sequence[ResidualAttentionBlock], states: Tensor, packed: Packed) -> Tensor:
    """Class tokens after ``blocks``, all masked: images' tokens ``states`` (I, 1 + patches, width) -> (N, width)."""
    *inner, last = blocks
    tokens = states.flatten(0, 1)[packed.source] * packed.source_weight
    expand: Tensor | slice = packed.distinct
    rows = [packed.distinct[group.rows] for group in packed.groups]
    classes = packed.distinct[packed.classes]
    for block in inner:
        tokens = tokens[expand] + block.ls_1(_attend(block.attn, block.ln_1(tokens), packed.groups, rows))
        tokens = (tokens + block.ls_2(block.mlp(block.ln_2(tokens)))) * packed.weight
        expand, rows, classes = slice(None), [group.rows for group in packed.groups], packed.classes
    token = _class_tokens(last, tokens, packed.groups, rows, classes)
    return torch.empty_like(token).index_copy_(0, packed.order, token)


def _attend(attn: nn.MultiheadAttention, seen: Tensor, groups: list[Group], rows: list[Tensor]) -> Tensor:
    """Self-attention of each mask's tokens: normalised ``seen``, read at ``rows`` -> (R, width); the zero token's is void."""
    projected = functional.linear(seen, attn.in_proj_weight, attn.in_proj_bias)
    parts = [torch.zeros_like(seen[:1])]
    for group, own in zip(groups, rows, strict=True):
        query, key, value = projected[own].unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query[:, :, 1:], key, value, attn_mask=group.bias[:, None, None]
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1).flatten(1)[group.kept])
    return attn.out_proj(torch.cat(parts))


def _class_tokens(
    block: ResidualAttentionBlock, tokens: Tensor, groups: list[Group], rows: list[Tensor], classes: Tensor
) -> Tensor:
    """Output of ``block`` for the class tokens alone, in packed order: (N, width)."""
    attn, seen = block.attn, block.ln_1(tokens)
    (ask, key, value), (ask_bias, _, value_bias) = attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)
    query = functional.linear(seen[classes], ask, ask_bias)
    parts = [
        attend_once(query[group.masks], seen[own], key, value, value_bias, attn.num_heads, group.bias)
        for group, own in zip(groups, rows, strict=True)
    ]
    token = tokens[classes] + block.ls_1(attn.out_proj(torch.cat(parts)))
    return token + block.ls_2(block.mlp(block.ln_2(token)))


def _rows(array: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)


def _values(array: NDArray[np.float32], like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(device=like.device, dtype=like.dtype)
