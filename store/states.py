"""What can be wrong with an image, a ref or an expression: one vocabulary, from the first table to the metrics.

An expression has one state. One with ``NO_PROPOSALS`` is evaluated: the policy `empty` says how it counts. One in any
other state is not, because no measurement applies to it: it is left out of every rule's metrics and counted under its
state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from store.table import Table


class State(StrEnum):
    """The text of a state is what stands in the tables and in the metrics file."""

    UNREADABLE_IMAGE = "unreadable image"
    """The file is missing, changed since it was indexed, cannot be decoded, or is too thin or too large."""
    FAULTY_SENTENCE = "faulty sentence"
    """The sentence is blank, missing, not text, or longer than any sentence."""
    NO_GROUND_TRUTH = "no ground truth"
    """The ref is faulty: it names no usable annotation."""
    NOT_ANNOTATED = "not annotated"
    """Its data set has no ground truth: a proposal is chosen, and no metric is about it."""
    NO_PROPOSALS = "no proposals"
    """The image can be read, but the source proposed nothing."""
    LOST_FEATURE = "lost feature"
    """The vectors of all its proposals, or its own, are absent, zero, denormal or not finite."""


EVALUATED = ("", State.NO_PROPOSALS)
"""States of the expressions that the metrics are about."""
USABLE = (*EVALUATED, State.NOT_ANNOTATED)
"""States in which nothing is wrong with an expression."""


def expression_states(
    index: Table, proposals: Table, parse: Table, lost_proposal: NDArray[np.bool_], lost_text: NDArray[np.bool_]
) -> tuple[list[str], list[str]]:
    """The state of every expression, "" for a good one, and why it is not evaluated, "" where it is.

    Args:
        index, proposals, parse: the tables; of ``parse`` the column ``status``.
        lost_proposal: proposals without a usable feature (N,). lost_text: expressions without one (E,).
    """
    offsets = proposals["image_offsets"]
    lost_before = np.concatenate([[0], np.cumsum(lost_proposal)])
    all_lost = (lost_before[offsets[1:]] - lost_before[offsets[:-1]]) == np.diff(offsets)
    empty = np.diff(offsets) == 0
    states: list[str] = []
    reasons: list[str] = []
    for expression, ref in enumerate(index["expression_ref"].tolist()):
        image = int(index["ref_image"][ref])
        unreadable = proposals["state"][image] == State.UNREADABLE_IMAGE
        state: str
        sentence = index["expression_status"][expression] or parse["status"][expression]
        lost = not empty[image] and (all_lost[image] or lost_text[expression])
        annotated = bool(index["ref_mask"][ref] or index["ref_status"][ref])
        if index["image_status"][image] or unreadable:
            state, reason = State.UNREADABLE_IMAGE, index["image_status"][image] or proposals["status"][image]
        elif sentence:
            state, reason = State.FAULTY_SENTENCE, sentence
        elif index["ref_status"][ref]:
            state, reason = State.NO_GROUND_TRUTH, index["ref_status"][ref]
        elif lost:
            what = "all proposals of its image" if all_lost[image] else "its sentence or phrase"
            state, reason = State.LOST_FEATURE, f"{what}: no usable feature (see mask_features, text_features)"
        elif not annotated:
            state, reason = State.NOT_ANNOTATED, "its data set has no ground truth"
        elif empty[image]:
            state, reason = State.NO_PROPOSALS, ""
        else:
            state, reason = "", ""
        states.append(str(state))
        reasons.append(reason)
    return states, reasons


def left_out(counts: Mapping[str, int]) -> str:
    """How many expressions a split's metrics leave out, and why, from its ``counts``; "" for none.

    "3 of 9 (unreadable image 2, faulty sentence 1)".
    """
    by_state = {state: counts.get(state, 0) for state in State if state not in EVALUATED}
    listed = ", ".join(f"{state} {count:,}" for state, count in by_state.items() if count)
    return f"{sum(by_state.values()):,} of {counts['expressions']:,} ({listed})" if listed else ""
