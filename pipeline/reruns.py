"""Typed values and paths of a profile's stages, and running those up to the pair table again with other values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.arguments import checked, split_values
from pipeline.project import LoadedProject
from pipeline.registry import FILES, PER_ENCODER, STAGES, UP_TO_PAIR, Instance, stage_module
from stages.contract import Context, Summary


def stage_values(
    project: LoadedProject, stage: str, change: Mapping[str, Mapping[str, Any]], encoder: str = ""
) -> tuple[Any, dict[str, Path]]:
    """Params of ``stage``, and the path of every field of its ``Paths``.

    Args:
        change: section -> values that replace the profile's own.
        encoder: whose vectors and pairs; "" for the main one.
    """
    encoder = encoder or project.values.encoder
    module = stage_module(stage)
    values: dict[str, Any] = {}
    for section in STAGES[stage]:
        content = getattr(project.values, section)
        content = content[encoder] if section == "encoders" else content
        values |= content.model_dump(mode="json", exclude_none=True)
        values |= change.get(section, {})
    values["encoder"] = encoder
    known = {*module.Params.model_fields, *module.Paths.model_fields}  # sweep takes a part of section score
    params, given = split_values(
        {name: value for name, value in values.items() if name in known},
        (module.Params, module.Paths),
        str(project.file),
    )
    files = {field: project.table(file.format(encoder=encoder)) for field, file in FILES.items()}
    files |= {"images": project.path(project.values.images), "metrics": project.path(project.values.metrics)}
    files["summary"] = project.path(project.values.summary)
    files["records"] = project.path(project.values.work, "records")
    files |= {name: project.path(path) for name, path in given.items()}
    return checked(module.Params, params, str(project.file)), {name: files[name] for name in module.Paths.model_fields}


@dataclass(frozen=True)
class Reruns:
    """A ``stages.contract.Profile``: what stage variants sees of the params file."""

    project: LoadedProject

    @property
    def encoders(self) -> list[str]:
        return list(self.project.values.encoders)

    def value(self, section: str, name: str) -> Any:
        return getattr(getattr(self.project.values, section), name)

    def _work(self, context: Context, stage: str) -> Path:
        """The folder of the parts of ``stage``, for the main encoder where there is one for each."""
        return context.work.parent / Instance(stage, self.project.values.encoder if stage in PER_ENCODER else "").name

    def pair_table(
        self, change: Mapping[str, Mapping[str, Any]], scratch: Path, context: Context, total: Summary
    ) -> Path:
        written: dict[str, Path] = {}
        for stage in UP_TO_PAIR:
            module = stage_module(stage)
            params, files = stage_values(self.project, stage, change)
            before, _ = stage_values(self.project, stage, {})
            outputs = set(module.Paths.outputs)
            if params == before and not written.keys() & (files.keys() - outputs):
                continue
            written |= {name: scratch / f"{name}{files[name].suffix}" for name in outputs}
            paths = module.Paths(**{name: written.get(name, path) for name, path in files.items()})
            _add(total, module.run(params, paths, replace(context, work=self._work(context, stage))))
        return written.get("pairs", stage_values(self.project, "pair", {})[1]["pairs"])


def _add(total: Summary, summary: Summary) -> None:
    for name in ("parts", "warnings", "transient", "losses"):
        getattr(total, name).extend(getattr(summary, name))
    for name in ("computed", "reused", "seconds"):
        sums = getattr(total, name)
        for what, count in getattr(summary, name).items():
            sums[what] = sums.get(what, 0) + count
