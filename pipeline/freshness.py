"""Whether the outputs of a profile fit each other and its values: from their attributes, without DVC.

An output says what it was made from (digests) and with which values. No column is read; the digests of the models that
the profile names are computed. A change of code or of annotations is not visible here; `dvc status` shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.project import LoadedProject, repro, with_params
from pipeline.registry import STAGES, stage_module
from pipeline.reruns import stage_values
from stages.text.spacy_model import spacy_digest
from store import schema
from store.agreement import disagreements
from store.document import read_document
from store.errors import StoreError, WeightsError, reading, rerun
from store.fingerprint import file_digest
from store.table import check_description, read_table
from store.vectors import MANIFEST

NOT_RUN = "has not run here"
_SHOWN = 2
_DIGEST = re.compile("[0-9a-f]{64}")


def producers() -> dict[str, str]:
    """Output (a field of ``Paths``) -> the stage that writes it."""
    return {field: stage for stage in STAGES for field in stage_module(stage).Paths.outputs}


def ancestors(stage: str) -> list[str]:
    """The stages whose outputs ``stage`` reads, directly or not, in the order of the flow."""
    producer_of, above, waiting = producers(), set[str](), [stage]
    while waiting:
        for field in stage_module(waiting.pop()).Paths.model_fields:
            before = producer_of.get(field)
            if before not in (None, stage, *above):
                above.add(str(before))
                waiting.append(str(before))
    return [name for name in STAGES if name in above]


def reasons(project: LoadedProject) -> dict[str, list[str]]:
    """Stage -> why its outputs are stale by themselves; [] where they are current, or would be if their inputs were."""
    outputs = {stage: _outputs(project, stage) for stage in STAGES}
    digests = {field: attrs.get("digest") for by_field in outputs.values() for field, attrs in by_field.items()}
    stale: dict[str, list[str]] = {}
    for stage, by_field in outputs.items():
        files = stage_values(project, stage, {})[1]
        stale[stage] = [str(attrs["fault"]) for attrs in by_field.values() if "fault" in attrs]
        if not all(files[field].exists() for field in by_field):
            stale[stage] = [NOT_RUN]
            continue
        for field, attrs in by_field.items():
            others = [
                source
                for source, digest in attrs.get("made_from", {}).items()
                if digests.get(source) not in (None, digest)
            ]
            stale[stage] += [f"{files[field].name} was made from another {', '.join(others)}"] if others else []
            stale[stage] += _changed_values(project, stage, attrs)
        if stage == "score":
            stale[stage] += _other_metrics(files["metrics"], by_field)
    return stale


def stale_line(project: LoadedProject, stage: str) -> str:
    """One line that says why numbers made from the outputs of ``stage`` are stale, and what to run; "" if they are not."""
    by_stage = reasons(project)
    stages = [name for name in STAGES if name in (*ancestors(stage), stage)]
    absent = [name for name in stages if by_stage[name] == [NOT_RUN]]
    causes = [f"{', '.join(absent)} {'have' if absent[1:] else 'has'} not run here"] if absent else []
    causes += [reason for name in stages if name not in absent for reason in by_stage[name]]
    if not causes:
        return ""
    more = (
        f"; and {len(causes) - _SHOWN} more ({with_params(project, 'glimpse status')})" if len(causes) > _SHOWN else ""
    )
    return f"stale: {'; '.join(causes[:_SHOWN])}{more}; to renew: {repro(project)}"


def _outputs(project: LoadedProject, stage: str) -> dict[str, dict[str, Any]]:
    """Output -> its attributes; {} where there are none, ``fault`` where they cannot be read."""
    files = stage_values(project, stage, {})[1]
    by_field: dict[str, dict[str, Any]] = {}
    for field in stage_module(stage).Paths.outputs:
        path = files[field]
        by_field[field] = {}
        if field in schema.TABLES and path.exists():
            try:
                by_field[field] = dict(attributes(path, field))
            except StoreError as error:
                by_field[field] = {"fault": error}
    return by_field


def attributes(path: Path, name: str) -> Mapping[str, Any]:
    """The attributes of table or vectors ``name`` at ``path``; no column is read.

    Raises:
        StoreError: there is none, it is damaged, or of another version of the schema.
    """
    if path.is_dir():
        remedy = rerun(schema.TABLES[name].producer)
        with reading(path, remedy):
            return check_description(path, name, (path / MANIFEST).read_bytes(), remedy)
    return read_table(path, name, ()).attrs


def _changed_values(project: LoadedProject, stage: str, attrs: Mapping[str, Any]) -> list[str]:
    """The values of the profile that differ from those that an output of ``stage`` with these attributes was made with."""
    params, files = stage_values(project, stage, {})
    stored = {**attrs.get("encoder", {}), **attrs.get("config", {})}
    changed = []
    for name, value in (params.config() | {name: str(path) for name, path in files.items()}).items():
        before = stored.get(name, value)
        section = next((s for s in STAGES[stage] if name in type(getattr(project.values, s)).model_fields), stage)
        if isinstance(before, str) and _DIGEST.fullmatch(before):  # of what the value names
            if _digest_of(project, name, value) not in (None, before):
                changed.append(f"{section}.{name} names other contents now ({value})")
        elif before != value:
            changed.append(f"{section}.{name} is {json.dumps(value)} now, was {json.dumps(before)}")
    return changed


def _digest_of(project: LoadedProject, name: str, value: str) -> str | None:
    """The digest of the model or file that a value of the profile names; None where it is not here."""
    if name == "spacy_model":
        try:
            return spacy_digest(value)
        except WeightsError:
            return None
    path = project.path(value)
    return file_digest(path) if path.is_file() else None


def _other_metrics(file: Path, outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether the metrics file holds other numbers than the scores table records.

    A file that agrees is kept as it is (``store.agreement``), so the pair table that it names may be an earlier one.
    """
    try:
        content = read_document(file, "score")
    except StoreError as error:
        return [str(error)]
    numbers = outputs["scores"].get("metrics")  # none in a table that cannot be read, which is a reason by itself
    other = numbers is not None and bool(disagreements(content, numbers))
    return [f"{file.name} holds other numbers than the last run of score found"] if other else []
