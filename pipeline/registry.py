"""The stages: ONE table of their names, in the order of the flow, and of what each gets from a params file.

A stage is the module ``stages.<name>`` with ``Params``, ``Paths`` and ``run``; its inputs and outputs are the fields of its
``Paths``. Everything that lists stages asks here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

DEFAULT_PARAMS = Path("params.yaml")
"""The params file of every command that is given no other (``--params``, ``GLIMPSE_PARAMS``): the full benchmark."""

STAGES: dict[str, tuple[str, ...]] = {
    "index": ("index",),
    "propose": ("propose",),
    "embed_masks": ("clip", "embed_masks"),
    "parse": ("parse",),
    "embed_text": ("clip", "embed_text"),
    "overlap": (),
    "pair": (),
    "variants": ("variants",),
    "score": ("score", "bootstrap", "rules"),
    "ablations": ("score", "ablations"),
    "sweep": ("score", "sweep"),
    "report": ("report",),
}
"""Stage -> the sections of the params file that its values come from."""
UP_TO_PAIR = tuple(list(STAGES)[: list(STAGES).index("pair") + 1])
"""The stages that lead to the pair table, which `variants` runs again."""
FILES = {
    "index": "index.h5",
    "proposals": "proposals.h5",
    "mask_features": "mask_features",
    "parse": "parse.h5",
    "text_features": "text_features",
    "overlap": "overlap.h5",
    "pairs": "pairs.h5",
    "variants": "variants",
    "scores": "scores.h5",
    "ablations": "ablations.json",
    "grid": "grid.json",
    "report": "report.html",
}
"""Field of a stage's ``Paths`` -> its file in the data folder."""


def stage_module(name: str) -> Any:
    """The module of stage ``name``."""
    return import_module(module_name(name))


def module_name(stage: str) -> str:
    """The name of a stage's module."""
    return f"stages.{stage}"
