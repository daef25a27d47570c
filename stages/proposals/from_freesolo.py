"""Proposal source freesolo: masks of FreeSOLO's network, kept as parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from stages.proposals.freesolo_units import proposer
from stages.proposals.parts import kept_items
from stages.proposals.registry import SOURCES, Found, ProposalSource, Request
from store.fingerprint import code_digest, library_versions


def _propose(request: Request) -> Found:
    config = key_of(request.values, request.input_digest())
    images = len(request.index["image_name"])
    load = partial(proposer, request.input, request.images, dict(request.values), images)
    return kept_items(request, config, load), config


def key_of(values: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """What the masks of an image depend on, apart from its pixels. ``weights``: the digest of the file."""
    return {
        **values,
        "input": weights,
        "code": code_digest("stages.proposals.freesolo_units"),
        "libraries": library_versions("numba", "numpy", "pillow", "pycocotools", "torch"),
    }


SOURCES.add(
    ProposalSource(
        name="freesolo",
        module=__name__,
        propose=_propose,
        parameters=(
            *("short_side", "score_threshold", "update_threshold"),
            *("max_candidates", "max_proposals", "precision"),
        ),
        input="mask proposal weights",
        input_is_weights=True,
    )
)
