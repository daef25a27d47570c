"""Blocks of a vision transformer from open_clip's weights, for inference: products by `stages.device.linear`.

open_clip's custom blocks (scaled attention, other norms) run their own code.
"""

from __future__ import annotations

from typing import Any

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from stages.device.linear import linear
from stages.visual.attention import attend_once


def run_block(block: nn.Module, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, T, width) -> (N, T, width). ``bias`` (N, T, T) is added to the logits of all heads."""
    if not isinstance(block, ResidualAttentionBlock):
        custom: Any = block
        return custom(tokens, attn_mask=None if bias is None else bias.repeat_interleave(custom.attn.num_heads, 0))
    attn = block.attn
    projected = linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = projected.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=None if bias is None else bias[:, None]
    )
    tokens = tokens + block.ls_1(linear(attended.transpose(1, 2).flatten(2), attn.out_proj.weight, attn.out_proj.bias))
    return tokens + block.ls_2(feed_forward(block, block.ln_2(tokens)))


def run_class_token(block: nn.Module, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """`run_block` for the class token alone: (N, T, width) -> (N, width)."""
    if not isinstance(block, ResidualAttentionBlock):  # it offers no query of its own
        return run_block(block, tokens, bias)[:, 0]
    seen = block.ln_1(tokens)
    biases = [None if bias is None else bias[:, 0]]
    return class_tokens(block, tokens[:, 0], seen[:, 0], [seen], biases)


def class_tokens(
    block: ResidualAttentionBlock, classes: Tensor, asking: Tensor, seen: list[Tensor], biases: list[Tensor | None]
) -> Tensor:
    """Class tokens after ``block``: (N, width).

    Args:
        classes: as they enter (N, width). asking: their normalised form. seen, biases: groups of what they attend to,
            normalised, see `attend_once`.
    """
    attn = block.attn
    (ask, key, value), (ask_bias, _, value_bias) = attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)
    query = linear(asking, ask, ask_bias)
    attended = attend_once(query, seen, key, value, value_bias, attn.num_heads, biases)
    token = classes + block.ls_1(linear(attended, attn.out_proj.weight, attn.out_proj.bias))
    return token + block.ls_2(feed_forward(block, block.ln_2(token)))


def feed_forward(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """The block's multilayer perceptron: (..., width) -> (..., width)."""
    for layer in block.mlp:
        x = linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
    return x
