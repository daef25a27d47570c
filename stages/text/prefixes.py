"""Token sequences as a forest of prefixes (tries), in which each common prefix is computed once.

A causal transformer gives a token the same state after the same beginning, whatever follows it. So the states of many
sequences form a forest: "man in hat" and "man in coat" part at their third word. A node is a beginning, by its last
token, and depends on the nodes of its path alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass
class Forest:
    """N nodes in the order of their depths, all below D, and the S sequences that end in them.

    Attributes:
        tokens: token id of each node, int64 (N).
        depths: how many nodes lead to it, 0 for the first token of a sequence; never falling, int64 (N).
        paths: the nodes that lead to it and itself, by depth; 0 beyond: int64 (N, D).
        ends: the node where each sequence ends, int64 (S); equal sequences end in the same node.
    """

    tokens: NDArray[np.int64]
    depths: NDArray[np.int64]
    paths: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Self:
        """The forest of ``sequences``: one at least, none empty."""
        nodes = {sequence[:length]: -1 for sequence in map(tuple, sequences) for length in range(1, len(sequence) + 1)}
        order = sorted(nodes, key=len)
        paths = np.zeros((len(order), len(order[-1])), np.int64)
        for node, beginning in enumerate(order):
            nodes[beginning] = node
            if len(beginning) > 1:
                paths[node] = paths[nodes[beginning[:-1]]]
            paths[node, len(beginning) - 1] = node
        return cls(
            np.array([beginning[-1] for beginning in order]),
            np.array([len(beginning) - 1 for beginning in order]),
            paths,
            np.array([nodes[tuple(sequence)] for sequence in sequences]),
        )


def portions(sequences: Sequence[list[int]], size: int) -> Iterator[list[int]]:
    """The sequences' indices in portions whose forests have at most ``size`` nodes (more only for one longer sequence).

    Neighbours in sorted order share the most, so the portions are cut from that order.
    """
    portion: list[int] = []
    before: list[int] = []
    nodes = 0
    for row in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence = sequences[row]
        new = len(sequence) - _common(sequence, before)
        if portion and nodes + new > size:
            yield portion
            portion, nodes, new = [], 0, len(sequence)
        portion.append(row)
        nodes, before = nodes + new, sequence
    if portion:
        yield portion


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
