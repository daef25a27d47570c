"""The stages: their names, in the order of the flow, and the module that holds each one's Params, Paths and run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = {
    "index": "stages.datasets.index",
    "propose": "stages.proposals.propose",
    "embed_masks": "stages.visual.embed_masks",
    "parse": "stages.text.parse",
    "embed_text": "stages.text.embed_text",
    "overlap": "stages.overlap",
    "pair": "stages.pairs",
    "differences": "pipeline.differences",
    "score": "stages.score",
    "ablations": "stages.ablations",
    "sweep": "stages.sweep",
    "report": "stages.report.report",
}


def stage_module(name: str) -> Any:
    """The module of stage ``name``."""
    return import_module(MODULES[name])
