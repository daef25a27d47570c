"""The stages: ONE table of their names, in the order of the flow, and of what each gets from a params file.

A stage is the module ``stages.<name>`` with ``Params``, ``Paths`` and ``run``; its inputs and outputs are the fields of its
``Paths``. Everything that lists stages asks here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

DEFAULT_PARAMS = Path("params.yaml")
"""The params file of every command that is given no other (``--params``, ``GLIMPSE_PARAMS``): the full benchmark."""

STAGES: dict[str, tuple[str, ...]] = {
    "index": ("index",),
    "propose": ("propose",),
    "embed_masks": ("encoders", "embed_masks"),
    "parse": ("parse",),
    "embed_text": ("encoders", "embed_text"),
    "overlap": (),
    "heat": ("encoders", "heat"),
    "pair": (),
    "variants": ("variants",),
    "score": ("score", "bootstrap", "rules"),
    "ablations": ("score", "bootstrap", "rules", "ablations"),
    "sweep": ("score", "sweep"),
    "report": ("report",),
}
"""Stage -> the sections of the params file that its values come from; of ``encoders`` the entry of one encoder."""
PER_ENCODER = ("embed_masks", "embed_text", "heat", "pair")
"""The stages that run once for each encoder, in dvc.yaml by ``foreach``; the others run once."""
UP_TO_PAIR = tuple(list(STAGES)[: list(STAGES).index("pair") + 1])
"""The stages that lead to the pair table, which `variants` runs again."""
FILES = {
    "index": "index.h5",
    "proposals": "proposals.h5",
    "mask_features": "mask_features/{encoder}",
    "parse": "parse.h5",
    "text_features": "text_features/{encoder}",
    "overlap": "overlap.h5",
    "heat_maps": "heat_maps/{encoder}.h5",
    "pairs": "pairs/{encoder}.h5",
    "pair_tables": "pairs",
    "variants": "variants",
    "scores": "scores.h5",
    "ablations": "ablations.json",
    "grid": "grid.json",
    "rules_plot": "plots/rules.csv",
    "iou_plot": "plots/iou.csv",
    "surface_plot": "plots/surface.csv",
    "report": "report.html",
}
"""Field of a stage's ``Paths`` -> its file in the data folder, for an encoder where it is made once for each."""


@dataclass(frozen=True)
class Instance:
    """A stage as DVC runs it: once, or once for each encoder, named as by ``foreach``."""

    stage: str
    encoder: str = ""

    @property
    def name(self) -> str:
        """``stage`` or ``stage@encoder``."""
        return f"{self.stage}@{self.encoder}" if self.encoder else self.stage


def instances(encoders: Iterable[str]) -> list[Instance]:
    """All that DVC runs for these encoders, in the order of the flow."""
    names = list(encoders)
    return [Instance(stage, encoder) for stage in STAGES for encoder in (names if stage in PER_ENCODER else [""])]


def stage_module(name: str) -> Any:
    """The module of stage ``name``."""
    return import_module(module_name(name))


def module_name(stage: str) -> str:
    """The name of a stage's module."""
    return f"stages.{stage}"
