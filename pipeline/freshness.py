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
from pipeline.registry import FILES, PER_ENCODER, STAGES, Instance, instances, stage_module
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
    """Field of a stage's ``Paths`` -> the stage that writes it; ``pair_tables`` are those of all encoders."""
    by_field = {field: stage for stage in STAGES for field in stage_module(stage).Paths.outputs}
    return by_field | {"pair_tables": by_field["pairs"]}


def sources(project: LoadedProject, instance: Instance) -> list[Instance]:
    """What writes the inputs of ``instance``: of its own encoder, of the main one, or of all that it reads."""
    by_field, names = producers(), project.values.encoders
    found: list[Instance] = []
    for field in stage_module(instance.stage).Paths.model_fields:
        stage = by_field.get(field, instance.stage)
        if stage != instance.stage:
            own = names if field == "pair_tables" else [instance.encoder or project.values.encoder]
            found += [Instance(stage, encoder) for encoder in (own if stage in PER_ENCODER else [""])]
    return list(dict.fromkeys(found))


def ancestors(project: LoadedProject, instance: Instance) -> list[Instance]:
    """What writes anything that ``instance`` reads, directly or not, in the order of the flow."""
    found, waiting = set[Instance](), [instance]
    while waiting:
        before = set(sources(project, waiting.pop())) - found
        found |= before
        waiting += before
    return [each for each in instances(project.values.encoders) if each in found]


def reasons(project: LoadedProject) -> dict[Instance, list[str]]:
    """Why the outputs of each stage are stale by themselves; [] where they are current, or would be if their inputs were."""
    every = instances(project.values.encoders)
    outputs = {instance: _outputs(project, instance) for instance in every}
    digests = {
        (field, instance.encoder): attrs.get("digest")
        for instance, by_field in outputs.items()
        for field, attrs in by_field.items()
    }
    stale: dict[Instance, list[str]] = {}
    for instance, by_field in outputs.items():
        files = stage_values(project, instance.stage, {}, instance.encoder)[1]
        stale[instance] = [str(attrs["fault"]) for attrs in by_field.values() if "fault" in attrs]
        if not all(files[field].exists() for field in by_field):
            stale[instance] = [NOT_RUN]
            continue
        for field, attrs in by_field.items():
            others = [
                source
                for source, digest in attrs.get("made_from", {}).items()
                if digest_now(project, instance, source, digests) not in (None, digest)
            ]
            stale[instance] += (
                [f"{_shown(field, instance, project)} was made from another {', '.join(others)}"] if others else []
            )
            stale[instance] += _changed_values(project, instance, attrs)
        if instance.stage == "score":
            stale[instance] += other_metrics(files["metrics"], by_field)
    return stale


def digest_now(
    project: LoadedProject, instance: Instance, source: str, digests: Mapping[tuple[str, str], str | None]
) -> str | None:
    """The digest of an input as it lies there: ``source`` as ``made_from`` names it, ``field`` or ``field@encoder``."""
    field, _, encoder = source.partition("@")
    own = encoder or instance.encoder or project.values.encoder
    return digests.get((field, own), digests.get((field, "")))


def _shown(field: str, instance: Instance, project: LoadedProject) -> str:
    return FILES[field].format(encoder=instance.encoder or project.values.encoder)


def stale_line(project: LoadedProject, stage: str) -> str:
    """One line that says why numbers made from the outputs of ``stage`` (of the main encoder) are stale, and what to run;
    "" if they are not."""
    by_instance = reasons(project)
    instance = Instance(stage, project.values.encoder if stage in PER_ENCODER else "")
    wanted = [*ancestors(project, instance), instance]
    absent = [each.name for each in wanted if by_instance[each] == [NOT_RUN]]
    said = [f"{', '.join(absent)} {'have' if absent[1:] else 'has'} not run here"] if absent else []
    said += [reason for each in wanted if each.name not in absent for reason in by_instance[each]]
    if not said:
        return ""
    more = f"; and {len(said) - _SHOWN} more ({with_params(project, 'glimpse status')})" if len(said) > _SHOWN else ""
    return f"stale: {'; '.join(said[:_SHOWN])}{more}; to renew: {repro(project)}"


def _outputs(project: LoadedProject, instance: Instance) -> dict[str, dict[str, Any]]:
    """Output -> its attributes; {} where there are none, ``fault`` where they cannot be read."""
    files = stage_values(project, instance.stage, {}, instance.encoder)[1]
    by_field: dict[str, dict[str, Any]] = {}
    for field in stage_module(instance.stage).Paths.outputs:
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


def _changed_values(project: LoadedProject, instance: Instance, attrs: Mapping[str, Any]) -> list[str]:
    """The values of the profile that differ from those that an output of ``instance`` with these attributes was made with."""
    params, files = stage_values(project, instance.stage, {}, instance.encoder)
    stored = {**attrs.get("encoder", {}), **attrs.get("config", {})}
    changed = []
    for name, value in (params.config() | {name: str(path) for name, path in files.items()}).items():
        before = stored.get(name, value)
        section = _section(project, instance, name)
        if isinstance(before, str) and _DIGEST.fullmatch(before):  # of what the value names
            if _digest_of(project, name, value) not in (None, before):
                changed.append(f"{section}.{name} names other contents now ({value})")
        elif before != value:
            changed.append(f"{section}.{name} is {json.dumps(value)} now, was {json.dumps(before)}")
    return changed


def _section(project: LoadedProject, instance: Instance, name: str) -> str:
    """Where a value of a stage stands in the params file."""
    for section in STAGES[instance.stage]:
        if section == "encoders":
            encoder = instance.encoder or project.values.encoder
            if name in type(project.values.encoders[encoder]).model_fields:
                return f"encoders.{encoder}"
        elif name in type(getattr(project.values, section)).model_fields:
            return section
    return instance.stage


def _digest_of(project: LoadedProject, name: str, value: str) -> str | None:
    """The digest of the model or file that a value of the profile names; None where it is not here."""
    if name == "spacy_model":
        try:
            return spacy_digest(value)
        except WeightsError:
            return None
    path = project.path(value)
    return file_digest(path) if path.is_file() else None


def other_metrics(file: Path, outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
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
