"""CLIP's text vectors, each distinct string once and without a token that cannot matter.

The plain way, open_clip's ``encode_text``, runs all positions of the context (77) for each string. The vector is read at
one position, the end token's, and attention is causal: nothing behind that position is ever seen. So only the tokens up
to it are run, common beginnings once (`stages.text.prefixes`), and after the last attention the end tokens alone.
A text tower for which this is not exact runs the plain way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn

from stages.text.prefixes import Pack, pack

_NODES = 128
"""Tokens per pack: longer packs share more beginnings, and spend more on the attention between them."""


class TextEncoder:
    """Text vectors of an open_clip model; ``batch`` strings' worth of positions at most are in one forward pass.

    Device and dtype are the model's. ``plain`` forces open_clip's own way; both give the same vectors within rounding
    (tests: relative error under 1e-5 in float32).
    """

    def __init__(
        self, model: nn.Module, tokenizer: Callable[..., Tensor], batch: int = 64, plain: bool = False
    ) -> None:
        self._model: Any = model
        self._tokenizer = tokenizer
        self._batch = batch
        self._tower = None if plain else _causal_tower(model)

    @torch.inference_mode()
    def encode(self, strings: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Raw vectors float32 (S, D) in the order of ``strings``, and which were cut, bool (S,) as in `truncated`.

        ``strings`` must not be empty.
        """
        position = {string: row for row, string in enumerate(dict.fromkeys(strings))}
        tokens, truncated = self._tokenise(list(position))
        features = self._plain(tokens) if self._tower is None else self._packed(tokens, self._tower)
        rows = [position[string] for string in strings]
        return features.float().cpu().numpy()[rows], truncated[rows]

    def truncated(self, strings: Sequence[str]) -> NDArray[np.bool_]:
        """Which strings have more tokens than the model reads (77 in CLIP, start and end included): bool (S,)."""
        return self._tokenise(strings)[1]

    def _tokenise(self, strings: Sequence[str]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Token ids int64 (S, context) and which strings were cut (S,)."""
        tokens = self._tokenizer([*strings, ""])
        padding = tokens[-1, -1]
        truncated = (tokens[:-1, -1] != padding).numpy()  # full, or more than full; most often none
        full = np.flatnonzero(truncated).tolist()
        if full:
            # One position more than the model has: only a string that is too long puts anything but padding there.
            longer = self._tokenizer([strings[row] for row in full], context_length=tokens.shape[1] + 1)
            truncated[full] = (longer[:, -1] != padding).numpy()
        return tokens[:-1], truncated

    def _plain(self, tokens: Tensor) -> Tensor:
        device = next(self._model.parameters()).device
        return torch.cat([self._model.encode_text(part.to(device)) for part in tokens.split(self._batch)])

    def _packed(self, tokens: Tensor, tower: Any) -> Tensor:
        ends = _pooled(tower, tokens).tolist()
        sequences = [row[: end + 1] for row, end in zip(tokens.tolist(), ends, strict=True)]
        positions = self._batch * tokens.shape[1]
        packs = pack(sequences, min(_NODES, positions))
        features = torch.cat([_encode(tower, part) for part in _passes(packs, positions)])
        rows = torch.tensor([row for own in packs for row in own.rows], device=features.device)
        return torch.empty_like(features).index_copy_(0, rows, features)


def _passes(packs: Sequence[Pack], positions: int) -> Iterator[Sequence[Pack]]:
    """Packs in order, as many as stay within ``positions`` when all are as long as the longest; one at least."""
    start, longest = 0, 0
    for stop, own in enumerate(packs):
        longest = max(longest, len(own.tokens))
        if stop > start and (stop + 1 - start) * longest > positions:
            yield packs[start:stop]
            start, longest = stop, len(own.tokens)
    yield packs[start:]


def _causal_tower(model: nn.Module) -> Any:
    """The module with the text weights if a vector depends on the tokens up to its own alone, else None."""
    tower: Any = model.text if type(model) is CustomTextCLIP else model
    if type(tower) not in (CLIP, TextTransformer) or getattr(tower, "cls_emb", None) is not None:
        return None
    if getattr(tower, "output_tokens", False) or _pool_type(tower) not in ("argmax", "eos"):
        return None
    mask = tower.attn_mask
    causal = mask is not None and torch.equal(mask, torch.full_like(mask, float("-inf")).triu(1))
    return tower if causal else None


def _pool_type(tower: Any) -> str:
    return tower.text_pool_type if isinstance(tower, CLIP) else tower.pool_type


def _pooled(tower: Any, tokens: Tensor) -> Tensor:
    """The position at which each text's vector is read: (S, context) -> (S,)."""
    if _pool_type(tower) == "eos":
        tokens = (tokens == (tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id)).int()
    return tokens.argmax(dim=-1)


def _encode(tower: Any, packs: Sequence[Pack]) -> Tensor:
    """Vectors of the sequences in ``packs``, pack after pack: (S, D)."""
    tokens, depths, bias = _forest(packs)
    weights, dtype = tower.positional_embedding, tower.transformer.get_cast_dtype()
    *blocks, last = tower.transformer.resblocks
    states = tower.token_embedding(tokens.to(weights.device)).to(dtype) + weights[depths.to(weights.device)].to(dtype)
    bias = bias.to(weights.device, dtype).repeat_interleave(last.attn.num_heads, 0)
    for block in blocks:
        states = block(states, attn_mask=bias)
    vectors = tower.ln_final(_ends(last, states, bias, packs))
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(vectors)
    return vectors if tower.text_projection is None else vectors @ tower.text_projection


def _forest(packs: Sequence[Pack]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and positions, int64 (P, N), N nodes in the longest pack; what keeps a node from others, (P, N, N)."""
    longest = max(len(own.tokens) for own in packs)
    tokens, depths = (np.zeros((len(packs), longest), np.int64) for _ in range(2))
    bias = np.full((len(packs), longest, longest), -np.inf, np.float32)
    bias[:, range(longest), range(longest)] = 0  # what fills a shorter pack sees itself: a row of -inf alone gives NaN
    for row, own in enumerate(packs):
        count = len(own.tokens)
        tokens[row, :count], depths[row, :count] = own.tokens, own.depths
        bias[row, :count, :count][own.sees()] = 0
    return torch.from_numpy(tokens), torch.from_numpy(depths), torch.from_numpy(bias)


def _ends(block: nn.Module, states: Tensor, bias: Tensor, packs: Sequence[Pack]) -> Tensor:
    """Output of the last ``block`` where sequences end: (P, N, width) -> (S, width)."""
    counts = [len(own.ends) for own in packs]
    ends = torch.zeros(len(packs), max(counts), dtype=torch.int64)
    for row, own in enumerate(packs):
        ends[row, : counts[row]] = torch.tensor(own.ends)
    kept = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    ends, kept = ends.to(states.device), kept.to(states.device)
    pick = torch.arange(len(packs), device=states.device)[:, None], ends
    if not isinstance(block, ResidualAttentionBlock):  # open_clip's custom block offers no query of its own
        return block(states, attn_mask=bias)[pick][kept]
    seen = block.ln_1(states)
    heads = len(bias) // len(packs)
    rows = bias.gather(1, ends.repeat_interleave(heads, 0)[..., None].expand(-1, -1, bias.shape[2]))
    states = (states[pick] + block.ls_1(block.attention(seen[pick], seen, seen, attn_mask=rows)))[kept]
    return states + block.ls_2(block.mlp(block.ln_2(states)))
