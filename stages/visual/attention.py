"""Attention of one query a row, without forming its keys and values: CLIP's last block and its ResNet's pool."""

from __future__ import annotations

import torch
from torch import Tensor


def attend_once(
    query: Tensor,
    tokens: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    heads: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Multi-head attention of a projected ``query`` (N, D) over ``tokens`` (N, T, C): (N, D), before the output projection.

    q . (K t + b) = (K' q) . t + q . b, whose last term is the same for every token, so that softmax drops it; and
    sum_t a_t (V t + b) = V (sum_t a_t t) + b. So K and V (D, C) are applied once a row, not once a token. ``bias``
    (N, T) is added to the logits of all heads.
    """
    split = (heads, query.shape[1] // heads)
    scaled = (query * split[1] ** -0.5).unflatten(1, split)
    asked = torch.einsum("nhd,hdc->nhc", scaled, key_weight.unflatten(0, split))
    logits = asked @ tokens.transpose(1, 2)
    shares = (logits if bias is None else logits + bias[:, None]).softmax(-1)
    answer = torch.einsum("nhc,hdc->nhd", shares @ tokens, value_weight.unflatten(0, split))
    return answer.flatten(1) + value_bias
