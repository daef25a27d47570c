"""Masked global features of a CLIP vision transformer (Yu et al., CVPR 2023, sec. 3.2).

The first L - k blocks (the trunk) see no mask and run once per image; the last k (the tail) run once per mask: without
the patches that the mask makes zero where that is exact (`stages.visual.sparse_tail`), otherwise dense. Built on
open_clip's own modules. After the last attention only the class token is computed, in the plain encoder too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from stages.clip.backbone import Masking
from stages.visual.blocks import run_block, run_class_token
from stages.visual.sparse_tail import pack, padded, sparse_tail
from store.errors import ParameterError


def open_tower(model: Any, masking: Masking = "token") -> MaskedViT:
    """The image tower of a loaded open_clip model."""
    return MaskedViT(model.visual, masking)


class MaskedViT:
    """A view of ``visual`` that can mask patches; holds no weights of its own.

    ``masking`` ``token``: patch tokens are multiplied by their mask value before each of the last k blocks, the class
    token is not. ``attention``: in those blocks the class token attends only to itself and to patches whose mask value
    is not 0; patches attend freely, tokens keep their values.
    """

    def __init__(self, visual: VisionTransformer, masking: Masking) -> None:
        if masking not in get_args(Masking):
            raise ParameterError(f"masking: expected one of {', '.join(get_args(Masking))}, got {masking!r}")
        if visual.attn_pool is not None or visual.pool_type != "tok":
            raise ParameterError(
                f"open_clip_model: expected a transformer pooled by its class token, got pool_type {visual.pool_type!r}"
                f"{' with an attentional pool' if visual.attn_pool is not None else ''}; masking is not defined for it"
            )
        self._visual = visual
        self._masking = masking
        self.blocks = list(visual.transformer.resblocks)
        # open_clip's custom blocks compute attention in other ways; they stay dense.
        self.sparse = masking == "token" and all(isinstance(block, ResidualAttentionBlock) for block in self.blocks)
        self.input_size: tuple[int, int] = tuple(visual.image_size)
        self.grid: tuple[int, int] = tuple(visual.grid_size)
        self.dim: int = visual.output_dim

    def shared(self, pixels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        """What all masks of an image share: for each k the tokens that enter block L - k.

        ``pixels`` (I, 3, *input_size) -> k -> (I, 1 + patches, width). Every k must lie in 1..L.
        """
        depth = len(self.blocks)
        wrong = [k for k in ks if not isinstance(k, int | np.integer) or not 1 <= k <= depth]
        if wrong:
            raise ParameterError(
                f"masked_blocks: expected 1 to {depth}, a whole number of blocks of this model, got {wrong[0]}"
            )
        tokens, done, states = self._visual._embeds(pixels), 0, {}
        for k in sorted(ks, reverse=True):
            for block in self.blocks[done : depth - k]:
                tokens = run_block(block, tokens)
            done, states[k] = depth - k, tokens
        return states

    def masked(self, states: Tensor, owners: NDArray[np.int64], masks: Tensor, k: int, batch: int) -> Tensor:
        """The last ``k`` blocks for each mask: (N, dim).

        ``states`` of `shared` for this k; ``owners`` (N,), the image of each mask; ``masks`` (N, *grid) in [0, 1].
        No pass holds more tokens, padding counted, than those of ``batch`` whole images.
        """
        if not self.sparse:
            return self.dense(states, owners, masks, k, batch)
        # Rounded as the model will: what its dtype rounds to 0 is a zero patch.
        weights = masks.flatten(1).to(states.dtype).float().cpu().numpy()
        cost, start = np.cumsum(1 + padded(1 + np.count_nonzero(weights, axis=1))), 0
        most = batch * int(1 + padded(np.array(states.shape[1])))
        parts = [states.new_zeros(0, self.dim)]
        while start < len(weights):
            stop = int(np.searchsorted(cost, (cost[start - 1] if start else 0) + most, side="right"))
            packed = pack(weights[start:stop], owners[start:stop], states)
            parts.append(self.projected(sparse_tail(self.blocks[-k:], states, packed)))
            start = stop
        return torch.cat(parts)

    def dense(self, states: Tensor, owners: NDArray[np.int64], masks: Tensor, k: int, batch: int) -> Tensor:
        """`masked` with every patch kept: for masking and blocks that cannot be sparse; the others must equal it.

        No pass holds more than ``batch`` masks.
        """
        parts = [states.new_zeros(0, self.dim)]
        for images, chunk in zip(torch.from_numpy(owners).split(batch), masks.flatten(1).split(batch), strict=True):
            tokens, weights = states[images.to(states.device)], chunk.to(states)
            if self._masking == "attention":
                parts.append(self._tail(tokens, k, self.attention_bias(weights)))
            else:  # the class token is never masked: its weight is 1
                full = torch.cat([torch.ones_like(weights[:, :1]), weights], 1)
                parts.append(self._tail(tokens, k, token_weights=full[..., None]))
        return torch.cat(parts)

    def encode(self, pixels: Tensor) -> Tensor:
        """The plain image encoder, nothing masked: (N, 3, *input_size) -> (N, dim)."""
        return self._tail(self._visual._embeds(pixels), len(self.blocks))

    def _tail(self, tokens: Tensor, k: int, bias: Tensor | None = None, token_weights: Tensor | None = None) -> Tensor:
        """The last ``k`` blocks and the projection of the class token: (N, 1 + patches, width) -> (N, dim)."""
        *blocks, last = self.blocks[-k:]
        for block in blocks:
            tokens = run_block(block, tokens if token_weights is None else tokens * token_weights, bias)
        token = run_class_token(last, tokens if token_weights is None else tokens * token_weights, bias)
        return self.projected(token)

    def projected(self, token: Tensor) -> Tensor:
        """The vector of a class token that left the last block: (N, width) -> (N, dim)."""
        return self._visual.ln_post(token) @ self._visual.proj

    def attention_bias(self, weights: Tensor) -> Tensor:
        """Keeps patches whose weight (N, patches) is 0 from the class token; added to logits: (N, 1 + patches, 1 + patches)."""
        count, patches = weights.shape
        bias = weights.new_zeros(count, 1 + patches, 1 + patches)
        bias[:, 0, 1:].masked_fill_(weights == 0, float("-inf"))
        return bias
