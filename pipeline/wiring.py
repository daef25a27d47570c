"""Which sections and files of a profile each stage gets: what dvc.yaml's commands pass, as typed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.arguments import checked, split_values
from pipeline.project import LoadedProject
from pipeline.stage_table import stage_module

SECTIONS: dict[str, tuple[str, ...]] = {
    "index": ("index",),
    "propose": ("propose",),
    "embed_masks": ("clip", "embed_masks"),
    "parse": ("text",),
    "embed_text": ("clip", "embed_text"),
    "overlap": (),
    "pair": (),
}
"""The stages up to the pair table, in order, and the sections of the params file that each one's values come from."""
FILES = {
    "index": "index.h5",
    "proposals": "proposals.h5",
    "mask_features": "mask_features",
    "parse": "parse.h5",
    "text_features": "text_features",
    "overlap": "overlap.h5",
    "pairs": "pairs.h5",
}
"""Field of a stage's ``Paths`` -> its file in the data folder."""


def stage_values(project: LoadedProject, stage: str, change: dict[str, dict[str, Any]]) -> tuple[Any, dict[str, Path]]:
    """Params of ``stage``, and the path of every field of its ``Paths``.

    Args:
        change: section -> values that replace the profile's own.
    """
    module = stage_module(stage)
    values: dict[str, Any] = {}
    for section in SECTIONS[stage]:
        values |= getattr(project.values, section).model_dump(mode="json", exclude_none=True) | change.get(section, {})
    params, given = split_values(values, (module.Params, module.Paths), str(project.file))
    files = {"images": project.path(project.values.images)} | {n: project.table(f) for n, f in FILES.items()}
    files |= {name: project.path(path) for name, path in given.items()}
    return checked(module.Params, params, str(project.file)), {name: files[name] for name in module.Paths.model_fields}
