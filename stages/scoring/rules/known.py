"""Every rule of this package, registered by being imported: a new file of this folder gets its name here."""

from __future__ import annotations

from stages.scoring.rules import (
    coherence,
    cropping,
    global_,
    global_local,
    grad_cam,
    negative,
    ordinal,
    position,
    rectifier,
    region_token,
    relation,
    score_map,
    subtraction,
    weighted,
)
from stages.scoring.rules.registry import RULES

__all__ = [
    "RULES",
    "coherence",
    "cropping",
    "global_",
    "global_local",
    "grad_cam",
    "negative",
    "ordinal",
    "position",
    "rectifier",
    "region_token",
    "relation",
    "score_map",
    "subtraction",
    "weighted",
]
