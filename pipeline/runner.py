"""Run one stage: typed values in, its record out."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.arguments import checked, split_values, words_to_values
from pipeline.identity import identity
from pipeline.progress import VERBOSITY, track, verbosity
from pipeline.project import LoadedProject, link_outside, load_project
from pipeline.registry import PER_ENCODER, Instance, stage_module
from pipeline.reruns import Reruns, stage_values
from stages.contract import Context, Profile, Summary
from store.document import write_document
from store.errors import ParameterError, extra, plain
from store.locks import locked
from store.registry import load_extensions
from store.units import Done, Load, Unit, in_process

SHOWN_SKIPS = 5


class Execution(BaseModel):
    """How a stage runs: never part of a fingerprint, never in dvc.yaml.

    From the environment (GLIMPSE_DEVICE and so on: what `dvc repro` passes on), or as options of `glimpse run`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    device: str = Field("cpu", description="torch device")
    batch: int | None = Field(
        None, ge=1, description="rows per forward pass at most; halved where a GPU's memory is full"
    )
    unit: int = Field(16, ge=1, description="images per part: what a kill can lose")
    workers: int = Field(0, ge=0, description="processes to spread the units over; 0 for this one")
    scheduler: str = Field("", description="address of a dask scheduler to use instead, tcp://host:port")
    wait: float = Field(0, ge=0, description="seconds to wait for another process that runs the same stage")
    allow_lost: bool = Field(False, description="files that are not there do not stop the run: it goes on without them")

    @classmethod
    def from_environment(cls, options: Mapping[str, Any] | None = None) -> Execution:
        """What the environment says, and ``options`` over it."""
        given = {name: os.environ.get(f"GLIMPSE_{name.upper()}") for name in cls.model_fields}
        values = {name: value for name, value in given.items() if value} | dict(options or {})
        execution = checked(cls, values, "options, environment GLIMPSE_*" if options else "environment GLIMPSE_*")
        if execution.workers and execution.scheduler:
            raise ParameterError(
                f"expected workers or scheduler, got both: {execution.workers} and {execution.scheduler}"
            )
        return execution

    @contextmanager
    def executor(self) -> Iterator[Callable[[Load, Sequence[Unit], str], Iterable[Done]]]:
        """What runs the units of a stage."""
        if not self.workers and not self.scheduler:
            yield in_process
            return
        if find_spec("distributed") is None:
            raise ParameterError(
                "workers, scheduler (GLIMPSE_WORKERS, GLIMPSE_SCHEDULER): they need dask, which is not installed; unset them, "
                f"or run: {extra('workers')}"
            )
        from pipeline.workers import Workers

        with Workers(self.workers, self.scheduler) as workers:
            yield workers

    def check_device(self) -> None:
        """Raise a ParameterError unless torch can use the device, and make float32 mean float32 there.

        The CPU needs neither, and no torch.
        """
        if self.device == "cpu":
            return
        import torch

        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise ParameterError(
                f"environment GLIMPSE_DEVICE: expected a torch device of this machine (cpu, cuda, cuda:1), got "
                f"{self.device!r} ({reason}); unset it, or name another"
            ) from error
        # cuDNN's default would round the inputs of float32 convolutions to 10 bits.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


class Place(BaseModel):
    """Where a run belongs: its params file, from which comes what the words do not say; where the parts and records go; the
    folder of additions whose names the values may use; and whose encoder's run it is, where there is one for each."""

    work: Path | None = None
    profile: Path | None = None
    extensions: Path | None = None
    encoder: str = ""


def run_words(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Run stage ``name`` with command-line words (see ``pipeline.arguments``); return its record.

    With ``--profile FILE`` all values and paths that the words do not name are that params file's: the whole command of
    dvc.yaml is ``run STAGE --profile FILE``, in which no value can reach a shell.

    Raises:
        ParameterError: a word that nothing knows, a value out of range, one that is missing; a faulty params file.
    """
    stage = stage_module(name)
    models = (stage.Params, stage.Paths, Place, Execution)
    values, paths, place, options = split_values(words_to_values(words), models, name)
    where = checked(Place, place, name)
    profile, encoder = None, where.encoder
    if where.profile is not None:
        project = load_project(where.profile)
        profile, encoder = Reruns(project), where.encoder or _encoder_of_dvc(name, project)
        usual, files = stage_values(project, name, {}, encoder)
        values, paths = {**usual.config(), **values}, {**files, **paths}
        where = where.model_copy(update={"work": where.work or project.path(project.values.work)})
    if where.work is None:
        raise ParameterError(
            f"{name}.work: expected a value, got none; add --work FOLDER, for parts and records, or --profile"
        )
    if where.extensions is not None:
        load_extensions(where.extensions)
    execution = Execution.from_environment(options)
    typed = checked(stage.Params, values, name), checked(stage.Paths, paths, name)
    return run_stage(name, *typed, where.work, execution, profile, encoder)


def _encoder_of_dvc(stage: str, project: LoadedProject) -> str:
    """The encoder whose run DVC has started, from the name of the stage in its variable DVC_STAGE; otherwise the main one.

    Raises:
        ParameterError: DVC runs the stage in another folder than the params file's project, or could not keep its output.
    """
    named, _, encoder = os.environ.get("DVC_STAGE", "").rpartition(":")[2].partition("@")
    if named != stage:  # typed by hand
        return project.values.encoder
    require_place(project)
    return encoder or project.values.encoder


def require_place(project: LoadedProject) -> None:
    """Raise a ParameterError where DVC, which runs this, would not find or keep the project's outputs."""
    if outside := link_outside(project):
        raise ParameterError("; ".join(outside))
    if project.folder.resolve() != Path.cwd():
        raise ParameterError(
            f"{project.file}: root: expected the way to the project's folder {Path.cwd()}, where DVC runs its stages, got "
            f"{project.values.root!r}; correct it"
        )


def run_stage(
    name: str,
    params: Any,
    paths: Any,
    work: Path,
    execution: Execution,
    profile: Profile | None = None,
    encoder: str = "",
) -> dict[str, Any]:
    """Run stage ``name``, print what it did, and write ``<work>/records/<stage>.json``, or ``<stage>@<encoder>.json``.

    Where files were not there and that is not allowed, the record is ``stopped``: the outputs say what they lack, and the
    command line ends with status 1, so that DVC does not take the stage for done.

    Raises:
        GlimpseError: any error of the stage. BusyError: another process runs it, longer than ``execution.wait``.
    """
    instance = Instance(name, encoder if name in PER_ENCODER else "").name
    execution.check_device()
    with locked(work / instance, execution.wait), execution.executor() as execute:
        start = time.perf_counter()
        context = Context(
            *(work / instance, execution.device, execution.batch, execution.unit, track, execute, profile),
            wait=execution.wait,
            identity=identity(),
        )
        summary: Summary = stage_module(name).run(params, paths, context)
    summary.peak_bytes, summary.device_peak_bytes = peak_bytes(), device_peak_bytes(execution.device)
    record = {
        "stage": instance,
        "total_seconds": round(time.perf_counter() - start, 3),
        **asdict(summary),
        "stopped": bool(summary.transient) and not execution.allow_lost,
        "values": params.config(),
        "bytes": {output: size_of(getattr(paths, output)) for output in paths.outputs},
    }
    write_document(work / "records" / f"{instance}.json", record, instance)
    if text := _line(record, verbosity()):
        print(plain(text), flush=True)  # names of files and reasons are the data's
    return record


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def device_peak_bytes(device: str) -> int:
    """The most memory that tensors of this process have held on a GPU so far; 0 for a CPU."""
    if not device.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.max_memory_allocated(device)


def size_of(path: Path) -> int:
    """Bytes of a file or of all files of a folder; 0 when there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def _absent(record: dict[str, Any]) -> str:
    """The message about missing files: an error, so that the next run tries again, or a warning where that is allowed."""
    count, first = len(record["transient"]), record["transient"][0]
    missing = f"{count:,} file{'s were' if count > 1 else ' was'} not there, such as {first}"
    if not record["stopped"]:
        return f"warning: {missing}; going on without them (GLIMPSE_ALLOW_LOST)"
    return (
        f"stopped: {missing}. What could be computed is kept. Put them there and run again: only what they need is computed; "
        f"or go on without them: GLIMPSE_ALLOW_LOST=1 before the same command"
    )


def _line(record: dict[str, Any], said: str) -> str:
    """What a stage says of its run, as ``pipeline.progress.verbosity`` has it: quiet, its warnings alone."""
    warnings = "".join(f"\n  warning: {warning}" for warning in record["warnings"])
    if record["transient"]:
        warnings += f"\n  {_absent(record)}"
    if said == "quiet":
        return f"{record['stage']}:{warnings}" if warnings else ""
    done = [
        f"{verb} {', '.join(f'{n:,} {what}' for what, n in record[verb].items())}"
        for verb in ("read", "computed", "reused", "wrote")
        if any(record[verb].values())
    ]
    memory = f"at most {record['peak_bytes'] / 2**20:,.0f} MiB"
    if record["device_peak_bytes"] >= 2**20:  # less is the check of the device
        memory += f", {record['device_peak_bytes'] / 2**20:,.0f} MiB on the GPU"
    text = f"{record['stage']}: {'; '.join(done)}; {record['total_seconds']:.1f} s, {memory}"
    if said == "verbose":
        text += "".join(f"\n  {step}: {seconds:.2f} s" for step, seconds in record["seconds"].items())
    text += warnings
    skipped, most = record["skipped"], len(record["skipped"]) if said == "verbose" else SHOWN_SKIPS
    shown = "".join(f"\n  {reason}" for reason in skipped[:most])
    more = f"\n  ... and {len(skipped) - most} more (-v, or {VERBOSITY}=verbose)" if len(skipped) > most else ""
    return f"{text}; {len(skipped)} rows with a reason:{shown}{more}" if skipped else text
