"""Attention of one query a row, without forming its keys and values: CLIP's last block and its ResNet's pool."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attend_once(
    query: Tensor,
    tokens: Sequence[Tensor],
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    heads: int,
    biases: Sequence[Tensor | None],
) -> Tensor:
    """Multi-head attention of a projected ``query`` (N, D): (N, D), before the output projection.

    ``tokens`` are what the rows attend to, in groups of rows with equally many: (n, T, C) each, with a bias (n, T) for
    the logits of all heads, or None.

    q . (K t + b) = (K' q) . t + q . b, whose last term is the same for every token, so that softmax drops it; and
    sum_t a_t (V t + b) = V (sum_t a_t t) + b. So K and V (D, C) are applied once a row, not once a token.
    """
    split = (heads, query.shape[1] // heads)
    scaled = (query * split[1] ** -0.5).unflatten(1, split)
    asked = torch.einsum("nhd,hdc->nhc", scaled, key_weight.unflatten(0, split))
    answers = []
    for rows, group, bias in zip(asked.split([len(group) for group in tokens]), tokens, biases, strict=True):
        logits = rows @ group.transpose(1, 2)
        answers.append((logits if bias is None else logits + bias[:, None]).softmax(-1) @ group)
    answer = torch.einsum("nhc,hdc->nhd", torch.cat(answers), value_weight.unflatten(0, split))
    return answer.flatten(1) + value_bias
