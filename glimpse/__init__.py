"""Glimpse in Python: a finished run's tables, its scoring and metrics, and the networks.

    import glimpse

    project = glimpse.open_project("demo/params.yaml")
    project.scores.to_pandas()                      # what each rule chose for every expression
    pairs = project.load_pairs()                    # the pair table: any score of its (P,) pairs ...
    chosen = pairs.choice(pairs.dots.scores(0.9, 0.5), glimpse.Filters())
    glimpse.summarise(pairs.outcome(chosen))        # ... becomes choices, and these become metrics

These names are the stable interface; everything behind them may move. Networks, and what needs pandas (extra ``tables``), load
when they are first used. Errors that Glimpse raises on purpose are ``GlimpseError`` and its kinds.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from glimpse.project import Frames, Project, open_project
from stages.scoring.fusion import Dots, fused_scores
from stages.scoring.metrics import Outcome, bootstrap, iou_of, outcome_of_choice, outcome_of_random, summarise
from stages.scoring.table import Filters, PairTable, Scoring, load_pairs
from store.errors import (
    BusyError,
    CodeError,
    DataError,
    GlimpseError,
    ParameterError,
    StoreError,
    TransientError,
    WeightsError,
)

if TYPE_CHECKING:
    from pipeline.commands.single_image import Segmentation, segment
    from stages.clip.weights import load_clip
    from stages.proposals.freesolo import FreeSolo
    from stages.text.spacy_model import load_spacy
    from stages.visual.encoder import MaskedClip

try:
    __version__ = version("glimpse-refseg")
except PackageNotFoundError:  # a copy of the folder that is not installed
    __version__ = ""

_HEAVY = {
    "FreeSolo": "stages.proposals.freesolo",
    "MaskedClip": "stages.visual.encoder",
    "Segmentation": "pipeline.commands.single_image",
    "load_clip": "stages.clip.weights",
    "load_spacy": "stages.text.spacy_model",
    "segment": "pipeline.commands.single_image",
}
"""Names whose modules load torch or spaCy, only when they are used."""

__all__ = [
    "BusyError",
    "CodeError",
    "DataError",
    "Dots",
    "Filters",
    "Frames",
    "FreeSolo",
    "GlimpseError",
    "MaskedClip",
    "Outcome",
    "PairTable",
    "ParameterError",
    "Project",
    "Scoring",
    "Segmentation",
    "StoreError",
    "TransientError",
    "WeightsError",
    "__version__",
    "bootstrap",
    "fused_scores",
    "iou_of",
    "load_clip",
    "load_pairs",
    "load_spacy",
    "open_project",
    "outcome_of_choice",
    "outcome_of_random",
    "segment",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(import_module(_HEAVY[name]), name)
    raise AttributeError(f"module 'glimpse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
