"""What is computed, what is stale and how large it is; and freeing what nothing uses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.tables import narrow_table, print_table
from pipeline.foreign import how_it_ended
from pipeline.freshness import ancestors, reasons
from pipeline.project import LoadedProject, with_params
from pipeline.registry import STAGES, UP_TO_PAIR, Instance, instances
from pipeline.reruns import stage_values
from pipeline.runner import Execution, size_of
from store.document import read_record
from store.errors import StoreError
from store.locks import locked
from store.publish import remove

CURRENT = "up to date"
_OTHER_COMMAND = "changed command"


def records(project: LoadedProject) -> dict[Instance, dict[str, Any]]:
    """The records of each stage's last run in this work folder, also those of encoders that the profile no longer has."""
    folder = project.path(project.values.work, "records")
    found = {}
    for path in folder.glob("*.json"):
        stage, _, encoder = path.stem.partition("@")
        if stage in STAGES:
            found[Instance(stage, encoder)] = read_record(path)
    order = list(STAGES)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0].stage), item[0].encoder)))


def dvc_states(project: LoadedProject) -> dict[Instance, str]:
    """State of each stage as DVC sees it: ``up to date`` or what changed.

    Raises:
        StoreError: DVC cannot say: no dvc.yaml or no dvc.lock beside the params file, no DVC project, or it failed.
    """
    file = project.file.parent / "dvc.yaml"
    for needed in (file, file.with_suffix(".lock")):
        if not needed.is_file():
            raise StoreError(f"there is no {needed}: DVC has recorded no run of this profile here")
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        how = how_it_ended(done.returncode)
        raise StoreError(
            f"dvc status {file} failed, it {how}: {done.stderr.strip()}; where its lock file is damaged, "
            f"{with_params(project, 'glimpse check --repair')} drops it, else run it by hand in the project's folder"
        )
    changed = {key.rpartition(":")[2]: value for key, value in json.loads(done.stdout or "{}").items()}
    every = instances(project.values.encoders)
    return {each: _describe(changed[each.name]) if each.name in changed else CURRENT for each in every}


def _describe(changes: list[Any]) -> str:
    words: dict[str, None] = {}
    for change in changes:
        if isinstance(change, str):
            words[change] = None
            continue
        for kind, paths in change.items():
            words[f"{kind}: {', '.join(f'{path} {state}' for path, state in list(paths.items())[:2])}"] = None
    return "; ".join(words)


def states(project: LoadedProject) -> tuple[dict[Instance, str], str]:
    """State of each stage, and a note on what could not be examined ("" if all was).

    ``up to date``, why it is stale by itself, or the stale stages it waits for.
    """
    try:
        by_dvc, note = dvc_states(project), ""
    except StoreError as error:
        by_dvc = dict.fromkeys(instances(project.values.encoders), CURRENT)
        note = f"note: outputs and values are compared, whether code changed is not known: {error}"
    causes = reasons(project)
    by_instance: dict[Instance, str] = {}
    for instance, state in by_dvc.items():
        if state in (CURRENT, _OTHER_COMMAND) and causes[instance]:  # says which value changed
            state = "; ".join(causes[instance])
        by_instance[instance] = state
    stale = {instance for instance, state in by_instance.items() if state != CURRENT}
    for instance, state in by_instance.items():
        before = [each.name for each in ancestors(project, instance) if each in stale]
        if before and state == CURRENT:
            by_instance[instance] = f"waits for {', '.join(before)}"
    return by_instance, note


def as_json(project: LoadedProject) -> str:
    """The stages as JSON (docs/results.md): state, seconds of the last run, bytes of outputs and parts, rows with a reason."""
    stages, note = _stages(project)
    return json.dumps({"stages": stages, "note": note}, indent=1)


def print_status(project: LoadedProject) -> None:
    """A table of the stages: state, seconds of the last run, sizes of outputs and of parts, rows with a reason."""
    stages, note = _stages(project)
    table = narrow_table()
    for name in ("stage", "state", "last run", "output", "parts", "reasons"):
        left = name in ("stage", "state")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "state", overflow="fold")
    for stage in stages:
        known = stage["seconds"] is not None
        table.add_row(
            stage["stage"],
            stage["state"],
            f"{stage['seconds']:.1f} s" if known else "-",
            _size(stage["output_bytes"]) if known else "-",
            _size(stage["parts_bytes"]),
            str(stage["rows_with_a_reason"]) if known else "-",
        )
    print_table(table)
    print("reasons: rows that a stage left out or marked, with why")
    if note:
        print(note)


def _stages(project: LoadedProject) -> tuple[list[dict[str, Any]], str]:
    """A row for each stage, None for what no record of a last run tells; and the note of ``states``."""
    by_instance, note = states(project)
    known, work = records(project), project.path(project.values.work)
    rows = []
    for instance, state in by_instance.items():
        record = known.get(instance)
        rows.append(
            {
                "stage": instance.name,
                "state": state,
                "current": state == CURRENT,
                "seconds": record["total_seconds"] if record else None,
                "output_bytes": sum(record["bytes"].values()) if record else None,
                "parts_bytes": size_of(work / instance.name),
                "rows_with_a_reason": len(record["skipped"]) if record else None,
            }
        )
    return rows, note


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


@dataclass(frozen=True, slots=True)
class Unused:
    """The parts of one configuration that no stage's last run used; ``kept`` says why they stay, "" if nothing does."""

    folder: Path
    bytes: int
    kept: str

    def __str__(self) -> str:
        return f"{self.folder}: {_size(self.bytes)}" + (f"; {self.kept}" if self.kept else "")


def remove_unused_parts(project: LoadedProject, dry_run: bool = False) -> list[Unused]:
    """Remove the configurations in the work folder that nothing current uses, or with ``dry_run`` only find them.

    Kept, with the reason, are those of which the last run of their stage does not tell whether they are wanted.

    Raises:
        BusyError: a stage is running.
    """
    work = project.path(project.values.work)
    known = records(project)
    used = {Path(folder).name for record in known.values() for folder in record["parts"]}  # variants uses others' parts
    unused, wait = [], Execution.from_environment().wait
    for instance, record in known.items():
        with locked(work / instance.name, wait):  # a run that goes on now may be filling a new one
            for folder in sorted((work / instance.name).glob("*/*")):
                if not folder.is_dir() or folder.name in used:
                    continue
                unused.append(Unused(folder, size_of(folder), _why_kept(project, instance, record, folder)))
                if not dry_run and not unused[-1].kept:
                    remove(folder)
    return unused


def _why_kept(project: LoadedProject, instance: Instance, record: dict[str, Any], folder: Path) -> str:
    """Why a configuration that the last run of ``instance`` did not use may still be wanted; "" if it is not."""
    config, name, encoder = folder / "config.json", instance.name, instance.encoder
    if not config.exists():
        return ""
    if _modified(config) >= _modified(project.path(project.values.work, "records", f"{name}.json")):
        return "opened since the last run ended, perhaps by one that was interrupted"
    if not record["parts"]:
        return (
            f"the last run of {name} needed no parts at all, another source does; if you want none, remove the folder"
        )
    if instance.stage not in UP_TO_PAIR or (encoder and encoder not in project.values.encoders):
        return ""
    if record.get("values", {}) not in ({}, stage_values(project, instance.stage, {}, encoder)[0].config()):
        return f"the profile's values for {name} changed since its last run, and may want it; run the stage first"
    return ""


def _modified(path: Path) -> float:
    """Time of the last change, 0 for a file that is not there."""
    return path.stat().st_mtime if path.exists() else 0.0
