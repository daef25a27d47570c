"""Token sequences packed so that a common beginning stands, and is computed, once.

A causal transformer gives a token the same state after the same beginning, whatever follows it. So the states of many
sequences form a forest: "man in hat" and "man in coat" part at their third word. A pack is one piece of that forest
laid out in a row; attention lets every node see itself and its ancestors. No node is padding of a short sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Pack:
    """N nodes, every one after its parent, and the S sequences that end in them.

    Attributes:
        tokens: token id of each node (N).
        depths: its position in every sequence that it belongs to, from 0 (N).
        parents: the node before it, -1 for the first token of a sequence (N).
        rows: which of the sequences end here, by their position in the input (S).
        ends: the node where each of ``rows`` ends (S); equal sequences end in the same node.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def sees(self) -> NDArray[np.bool_]:
        """Which nodes each node attends to, itself and its ancestors: bool (N, N)."""
        sees = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees


def pack(sequences: Sequence[list[int]], size: int) -> list[Pack]:
    """Packs of at most ``size`` nodes (more only for a single sequence that is longer) that hold all ``sequences``.

    Neighbours in sorted order share the most, so they are packed in that order; none may be empty. [] for none.
    """
    packs: list[Pack] = []
    path: list[int] = []  # the nodes of the sequence before
    for row in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence = sequences[row]
        common = _common(sequence, [packs[-1].tokens[node] for node in path]) if packs else 0
        if not packs or len(packs[-1].tokens) + len(sequence) - common > size:
            packs.append(Pack())
            path, common = [], 0
        own = packs[-1]
        del path[common:]
        for depth, token in enumerate(sequence[common:], common):
            own.parents.append(path[-1] if path else -1)
            path.append(len(own.tokens))
            own.tokens.append(token)
            own.depths.append(depth)
        own.rows.append(row)
        own.ends.append(path[-1])
    return packs


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
