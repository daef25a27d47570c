"""CLIP's text vectors, each distinct string once and without a token that cannot matter.

The plain method, open_clip's ``encode_text``, runs all positions of the context (77) for each string. The vector is read at
one position, the end token's, and attention is causal: nothing after that position is attended to. So only the tokens up
to it are computed, common prefixes once (`stages.text.prefixes`), and after the last attention the end tokens alone.
A text tower for which this is not exact runs the plain method.

On a CPU in float32 a vector is the same to the byte whatever is encoded with it, so that a resumed and an uninterrupted run
write the same bytes. So neither the number of rows nor the position of a row may change how sums are taken or rounded:
products run for a fixed number of rows, and attention sums in the order of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import Attention, CustomResidualAttentionBlock, TextTransformer
from torch import Tensor, nn

from stages.clip.tokenizer import FileTokenizer
from stages.device.linear import linear
from stages.text.prefixes import Forest, portions

_ROWS = 120
"""Rows per product on a CPU: enough for its speed, few enough for a single string."""

_ACTIVATED = 60
"""Rows per activation on a CPU. torch splits it between threads, one per 2**15 numbers at most, and where a split falls
inside a vector of the CPU, numbers are computed by other means: a sigmoid's last bit differs. In CLIP's towers of width
512 and 768 no split of 60 rows does, whatever the number of threads: at most 4 and 6 get a part, and 60 divides by all
up to 6."""


def open_tower(model: Any, tokenizer: Callable[..., Tensor], batch: int) -> TextEncoder:
    """The text tower of a loaded open_clip model."""
    return TextEncoder(model, tokenizer, batch)


class TextEncoder:
    """Text vectors of an open_clip model; ``batch`` strings' worth of positions at most are held at a time.

    Device and dtype are the model's. ``plain`` forces open_clip's own way, the only one of an encoder that reads texts in both
    directions (SigLIP); where there are two, both give the same vectors within rounding (tests: relative error under 1e-5 in
    float32).
    """

    def __init__(
        self, model: nn.Module, tokenizer: Callable[..., Tensor], batch: int = 64, plain: bool = False
    ) -> None:
        self._model: Any = model
        self._tokenizer = tokenizer
        self.batch = batch
        self._tower = None if plain else _causal_tower(model)

    @torch.inference_mode()
    def encode(self, strings: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Raw vectors float32 (S, D) in the order of ``strings``, and which were cut, bool (S,) as in `truncated`.

        ``strings`` must not be empty.
        """
        position = {string: row for row, string in enumerate(dict.fromkeys(strings))}
        tokens, truncated = self._tokenise(list(position))
        features = self._plain(tokens) if self._tower is None else self._shared(tokens, self._tower)
        rows = [position[string] for string in strings]
        return features.float().cpu().numpy()[rows], truncated[rows]

    def truncated(self, strings: Sequence[str]) -> NDArray[np.bool_]:
        """Which strings have more tokens than the model reads (CLIP: 77, start and end included; SigLIP: 64): bool (S,)."""
        return self._tokenise(strings)[1]

    def _tokenise(self, strings: Sequence[str]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Token ids int64 (S, context) and which strings were cut (S,)."""
        if isinstance(self._tokenizer, FileTokenizer):
            return self._tokenizer.with_cuts(strings)
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
        rows = 1 if device.type == "cpu" else self.batch  # one by one a vector's bytes do not depend on its neighbours
        return torch.cat([self._model.encode_text(part.to(device)) for part in tokens.split(rows)])

    def _shared(self, tokens: Tensor, tower: Any) -> Tensor:
        ends = _pooled(tower, tokens).tolist()
        sequences = [row[: end + 1] for row, end in zip(tokens.tolist(), ends, strict=True)]
        cut = list(portions(sequences, self.batch * tokens.shape[1]))
        features = torch.cat([_encode(tower, Forest.of([sequences[row] for row in rows])) for rows in cut])
        order = torch.tensor([row for rows in cut for row in rows], device=features.device)
        return torch.empty_like(features).index_copy_(0, order, features)


def _causal_tower(model: nn.Module) -> Any:
    """The module with the text weights if a vector depends on the tokens up to its own alone, else None."""
    tower: Any = model.text if type(model) is CustomTextCLIP else model
    if type(tower) not in (CLIP, TextTransformer) or getattr(tower, "cls_emb", None) is not None:
        return None
    if getattr(tower, "output_tokens", False) or _pool_type(tower) not in ("argmax", "eos"):
        return None
    if any(getattr(block.attn, "logit_scale", None) is not None for block in tower.transformer.resblocks):
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


def _encode(tower: Any, forest: Forest) -> Tensor:
    """Vectors of the sequences in ``forest``: (S, D)."""
    weights, dtype = tower.positional_embedding, tower.transformer.get_cast_dtype()
    tokens, depths, paths, ends = (
        torch.from_numpy(part).to(weights.device) for part in (forest.tokens, forest.depths, forest.paths, forest.ends)
    )
    states = tower.token_embedding(tokens).to(dtype) + weights[depths].to(dtype)
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        states = _run(block, states, depths, paths)
    ends, row = ends.unique(return_inverse=True)
    states = _run(last, states, depths[ends], paths[ends])
    return _by_rows(partial(_read, tower), states)[row]


def _by_rows(work: Callable[..., Tensor], *inputs: Tensor, rows: int = _ROWS) -> Tensor:
    """``work`` applied to the rows of ``inputs``: (N, width) each -> (N, ...). On a CPU in calls of exactly ``rows`` rows."""
    count = len(inputs[0])
    if inputs[0].device.type != "cpu":
        return work(*inputs)
    if missing := -count % rows:
        inputs = tuple(nn.functional.pad(part, (0, 0, 0, missing)) for part in inputs)
    return torch.cat([work(*part) for part in zip(*(part.split(rows) for part in inputs), strict=True)])[:count]


def _run(block: Any, states: Tensor, depths: Tensor, paths: Tensor) -> Tensor:
    """Output of ``block`` for the M nodes of ``depths`` (M) and ``paths`` (M, D): (N, width) -> (M, width)."""
    seen = _by_rows(partial(_project, block), states)
    nodes = paths.gather(1, depths[:, None])[:, 0]
    return _by_rows(partial(_finish, block), states[nodes], _attend(block.attn, seen, nodes, depths, paths))


def _project(block: Any, states: Tensor) -> Tensor:
    """Queries, keys and values, concatenated: (N, width) -> (N, 3 width)."""
    attn = block.attn
    projected = linear(block.ln_1(states), attn.in_proj_weight, attn.in_proj_bias)
    if isinstance(attn, Attention):
        query, key, value = projected.unflatten(1, (3, attn.num_heads, -1)).unbind(1)
        projected = torch.stack([attn.ln_q(query), attn.ln_k(key), value], dim=1).flatten(1)
    return projected


def _attend(attn: Any, seen: Tensor, nodes: Tensor, depths: Tensor, paths: Tensor) -> Tensor:
    """Attention of ``nodes`` (M) to their paths, before the output projection: (M, width).

    Sums over a path run in the order of its depths, and each softmax over just as many logits as there are nodes in the
    path. torch's own attention is not used: its last bits depend on which thread runs which row.
    """
    heads = attn.num_heads
    query, key, value = (part.contiguous() for part in seen.float().chunk(3, dim=1))
    query = query[nodes] * (query.shape[1] // heads) ** -0.5
    first = torch.searchsorted(depths, torch.arange(paths.shape[1] + 1, device=depths.device)).tolist()
    paths = paths.T.contiguous()
    logits = query.new_empty(len(nodes), heads, len(paths))
    for depth, start in enumerate(first[:-1]):
        keys = key.index_select(0, paths[depth, start:])
        logits[start:, :, depth] = keys.mul_(query[start:]).unflatten(1, (heads, -1)).sum(-1)
    for depth, (start, stop) in enumerate(pairwise(first)):
        shares = logits[start:stop, :, : depth + 1]
        shares.copy_(shares.softmax(-1))
    answers = torch.zeros_like(query).unflatten(1, (heads, -1))
    for depth, start in enumerate(first[:-1]):
        values = value.index_select(0, paths[depth, start:]).unflatten(1, (heads, -1))
        answers[start:] += values.mul_(logits[start:, :, depth, None])
    if getattr(attn, "head_scale", None) is not None:
        answers *= attn.head_scale[:, 0]
    return answers.flatten(1).to(seen.dtype)


def _finish(block: Any, states: Tensor, answers: Tensor) -> Tensor:
    """The rest of ``block`` once its attention has answered: (M, width) twice -> (M, width)."""
    if isinstance(block, CustomResidualAttentionBlock):
        answers = block.ln_attn(block.attn.out_proj(block.attn.ln_inner(answers)))
    else:
        answers = linear(answers, block.attn.out_proj.weight, block.attn.out_proj.bias)
    states = states + block.ls_1(answers)
    hidden = block.ln_2(states)
    for layer in block.mlp:
        if isinstance(layer, nn.Linear):
            hidden = linear(hidden, layer.weight, layer.bias)
        else:
            hidden = _by_rows(layer, hidden, rows=_ACTIVATED)
    return states + block.ls_2(hidden)


def _read(tower: Any, states: Tensor) -> Tensor:
    """Vectors from the end tokens' states: (M, width) -> (M, D)."""
    vectors = tower.ln_final(states)
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(vectors)
    return vectors if tower.text_projection is None else vectors @ tower.text_projection
