"""The masked blocks of a vision transformer without the tokens that the masks make zero; nothing is approximated.

Before each masked block a patch whose mask value is 0 is the zero vector, whichever patch it is (Yu et al., CVPR 2023,
sec. 3.2). LayerNorm makes one constant of all of these, so their keys and their values are equal, and in attention n
equal tokens weigh as much as one whose logit has log(n) added. Their outputs are zeroed again before the next block, and
after the last only the class token is read. So ONE zero token stands for those of all masks.

Two more savings. In the first masked block, tokens of the same patch and the same mask value (nine in ten are exactly
1) are equal, and have their queries, keys and values computed once. In the last, only the class token asks
(`class_tokens`).
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

from stages.device.linear import linear
from stages.visual.blocks import class_tokens, feed_forward
from store.ragged import offsets_of

BUCKET = 8
"""Masks attend together whose numbers of tokens round up to the same multiple; of 1 to 64, 4 to 16 measured best."""


@dataclass(frozen=True, eq=False)
class Group:
    """``count`` masks of about the same size, padded to ``length`` tokens each.

    ``bias`` (count, 1 + length) is added to the logits of the zero token and of a mask's own: the log of how many
    patches the zero token stands for, then 0, and -inf for padding.
    """

    count: int
    length: int
    bias: Tensor


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
        seen: int64, the row of each place of all groups, (count, 1 + length) flattened: what each mask attends to.
        kept: int64 (R,), the place of each row among those that ask, (count, length) flattened; the zero token has none.
    """

    order: Tensor
    source: Tensor
    source_weight: Tensor
    distinct: Tensor
    weight: Tensor
    classes: Tensor
    groups: list[Group]
    seen: Tensor
    kept: Tensor


def padded(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The length of the group that a mask with so many tokens, class token included, belongs to."""
    return -(-tokens // BUCKET) * BUCKET


def pack(weights: NDArray[np.float32], owners: NDArray[np.int64], like: Tensor) -> Packed:
    """Pack masks ``weights`` (N, patches) in [0, 1] of the images ``owners`` (N,); N is at least 1.

    The weights must be as they are in the dtype of ``like``; that one and its device are those of the result.
    """
    count, patches = weights.shape
    tokens = 1 + np.count_nonzero(weights, axis=1)
    order = np.argsort(tokens, kind="stable")
    tokens, weights, owners = tokens[order], weights[order], owners[order]
    full = np.concatenate([np.ones((count, 1), np.float32), weights], axis=1)
    mask, token = np.nonzero(full)
    weight = np.concatenate([np.zeros(1, np.float32), full[mask, token]])
    source = np.concatenate([np.zeros(1, np.int64), owners[mask] * (1 + patches) + token])
    # Mask values are not negative, so equal bits are equal values.
    keys = source << 32 | weight.view(np.uint32).astype(np.int64)
    _, first, distinct = np.unique(keys, return_index=True, return_inverse=True)
    starts, lengths = 1 + offsets_of(tokens)[:-1], padded(tokens)
    groups, seen = [], []
    for length in np.unique(lengths).tolist():
        used, start = tokens[lengths == length, None], starts[lengths == length, None]
        place = np.arange(length)
        with np.errstate(divide="ignore"):  # no zero patch: log 0 = -inf, the zero token has no share
            bias = np.concatenate([np.log(1.0 + patches - used), np.where(place < used, 0, -np.inf)], axis=1)
        groups.append(Group(len(used), length, _to(bias.astype(np.float32), like)))
        seen.append(np.where(place < used, start + place, 0))
    kept = np.flatnonzero(np.concatenate([rows.ravel() for rows in seen]))
    return Packed(
        _to(order, like),
        _to(source[first], like),
        _to(weight[first, None], like),
        _to(distinct, like),
        _to(weight[:, None], like),
        _to(starts, like),
        groups,
        _to(np.concatenate([np.pad(rows, ((0, 0), (1, 0))).ravel() for rows in seen]), like),
        _to(np.concatenate([np.zeros(1, np.int64), kept]), like),
    )


def sparse_tail(blocks: Sequence[ResidualAttentionBlock], states: Tensor, packed: Packed) -> Tensor:
    """Class tokens after ``blocks``, all masked: images' tokens ``states`` (I, 1 + patches, width) -> (N, width)."""
    *inner, last = blocks
    tokens = states.flatten(0, 1)[packed.source] * packed.source_weight
    expand: Tensor | slice = packed.distinct
    seen, classes = packed.distinct[packed.seen], packed.distinct[packed.classes]
    for block in inner:
        tokens = tokens[expand] + block.ls_1(_attend(block.attn, block.ln_1(tokens), packed, seen))
        tokens = (tokens + block.ls_2(feed_forward(block, block.ln_2(tokens)))) * packed.weight
        expand, seen, classes = slice(None), packed.seen, packed.classes
    normal = last.ln_1(tokens)
    biases: list[Tensor | None] = [group.bias for group in packed.groups]
    token = class_tokens(last, tokens[classes], normal[classes], _split(normal[seen], packed.groups), biases)
    return torch.empty_like(token).index_copy_(0, packed.order, token)


def _attend(attn: nn.MultiheadAttention, tokens: Tensor, packed: Packed, seen: Tensor) -> Tensor:
    """Self-attention of each mask's tokens, rows ``seen`` of the normalised ``tokens``: (R, width); void for the zero token."""
    projected = linear(tokens, attn.in_proj_weight, attn.in_proj_bias)[seen]
    parts = []
    for group, states in zip(packed.groups, _split(projected, packed.groups), strict=True):
        query, key, value = states.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query[:, :, 1:], key, value, attn_mask=group.bias[:, None, None]
        )
        parts.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
    return linear(torch.cat(parts)[packed.kept], attn.out_proj.weight, attn.out_proj.bias)


def _split(rows: Tensor, groups: list[Group]) -> list[Tensor]:
    """What each group sees: (count, 1 + length, ...)."""
    parts = rows.split([group.count * (1 + group.length) for group in groups])
    return [part.unflatten(0, (group.count, -1)) for part, group in zip(parts, groups, strict=True)]


def _to(array: NDArray[np.int64] | NDArray[np.float32], like: Tensor) -> Tensor:
    """On the device of ``like``, floats in its dtype."""
    tensor = torch.from_numpy(array).to(like.device)
    return tensor.to(like.dtype) if tensor.is_floating_point() else tensor
