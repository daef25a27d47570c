"""A finished tiny run to do harm to: its files as they were, to be put back, and its stages, to be run in child processes."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from demo.refshapes import write_benchmark
from pipeline.project import LoadedProject, load_project
from pipeline.registry import STAGES, stage_module
from pipeline.reruns import stage_values
from store.errors import StoreError
from store.seal import check_seal
from tests.faults.injection import Child, in_child
from tests.helpers.full_disk import glimpse
from tests.helpers.profile import demo_values
from tests.helpers.store_files import files_of

_LIBRARIES = ("torch", "open_clip", "spacy", "zarr", "numba", "vl_convert", "jinja2", "dask.config", "numpy.ma")
_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
_UNIT = {"GLIMPSE_UNIT": "2"}


@dataclass
class Tally:
    """What came of one kind of fault: a line of the table in docs/reliability.md.

    Attributes:
        lost: after it something finished was gone, half there, or other than before; or a command ended with a traceback.
        undetected: other values were read, and nothing said so. repaired: the remedy, typed or done, led to the same run.
        harmless: nothing was damaged that anybody reads. notes: what went wrong, with the seed that repeats it.
    """

    fault: str
    tried: int = 0
    lost: int = 0
    undetected: int = 0
    repaired: int = 0
    harmless: int = 0
    notes: list[str] = field(default_factory=list)

    def line(self) -> dict[str, Any]:
        """Without notes where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "notes" or value}

    def add(self, problems: list[str], what: str, otherwise: str = "repaired") -> None:
        """One try: lost if there are problems."""
        self.tried += 1
        came = "lost" if problems else otherwise
        setattr(self, came, getattr(self, came) + 1)
        self.notes += [f"{what}: {problem}" for problem in problems]


class Bench:
    """A run of all stages below ``folder``, of the annotated objects as proposals.

    The live files are in ``folder/run``, their copies in ``folder/kept``. All stages have run in this process, too, on one
    thread: a fork of it finds libraries, models' code and compiled loops loaded, of which a stage's first seconds consist.
    """

    def __init__(self, folder: Path) -> None:
        for name in _LIBRARIES:
            importlib.import_module(name)
        importlib.import_module("torch").set_num_threads(1)  # more would be threads that a fork lacks
        spacy = importlib.import_module("spacy")
        spacy.load = _kept(spacy.load)
        self.folder, self.live, self.kept = folder, folder / "run", folder / "kept"
        write_benchmark(folder / "refer", images_per_split=1)
        self.profile = folder / "params.yaml"
        self.unchanged = folder / "unchanged.yaml"
        self.values = _values(folder, self.live)
        for file in (self.profile, self.unchanged):
            file.write_text(yaml.safe_dump(self.values))
        self.project: LoadedProject = load_project(self.profile)
        for stage in STAGES:
            self._first_run(stage)
        importlib.import_module("zarr.core.sync").cleanup_resources()  # its thread; the next use starts another
        shutil.copytree(self.live, self.kept)
        self._whole = _states(self.live)
        gc.collect()
        atexit.register(gc.unfreeze)
        gc.freeze()  # or each child walks over all that was loaded, and copies its pages

    def _first_run(self, stage: str) -> None:
        """In a child, which alone starts the threads of the library of charts, then here."""
        if stage == "report":
            self.run(stage)
        with mock.patch.dict(os.environ, _UNIT):
            status, said = glimpse(self.words(stage))
        assert status == 0, (stage, said)

    @contextmanager
    def changed(self, change: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        """The profile with other values while the block lasts: section -> name -> value."""
        values = {
            name: value | change.get(name, {}) if name in change else value for name, value in self.values.items()
        }
        self.profile.write_text(yaml.safe_dump(values))
        try:
            yield
        finally:
            self.profile.write_text(yaml.safe_dump(self.values))

    def words(self, stage: str) -> list[str]:
        return ["run", stage, "--profile", str(self.profile)]

    def run(self, stage: str, before: Callable[[], Any] | None = None, **limits: float) -> tuple[int, Any, str]:
        """Run a stage in a child, after ``before``: status of the child, (status, standard error) of the command, output.

        Limits of the system that ``before`` sets hold for the command.
        """
        return in_child(lambda: self._run(stage, before), **limits)

    def start(self, stage: str, wait: int = 0) -> Child:
        """``run`` without waiting for its end; ``wait``: seconds that it waits for another writer."""
        return Child(lambda: self._run(stage, lambda: os.environ.update(GLIMPSE_WAIT=str(wait))))

    def _run(self, stage: str, before: Callable[[], Any] | None) -> tuple[int, str]:
        os.environ |= _UNIT
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore Ctrl-C
        if before is not None:
            before()
        done = glimpse(self.words(stage))
        for limit in _LIMITS:
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (hard, hard))
        return done

    def outputs(self, stage: str) -> dict[str, Path]:
        """The outputs of a stage of the main encoder: field -> path."""
        files = stage_values(self.project, stage, {})[1]
        return {name: files[name] for name in stage_module(stage).Paths.outputs}

    def _own(self, stage: str) -> list[str]:
        """Where a stage may write: outputs, parts, records; stage variants, which runs others, into their parts, too."""
        places = [str(path.relative_to(self.live)) for path in self.outputs(stage).values()]
        return [*places, "work/" if stage == "variants" else f"work/{stage}", f"work/records/{stage}"]

    def restore(self, without: str = "") -> None:
        """Put everything back as it was, but for the outputs and parts of stage ``without``.

        Only what differs from the copy last made, by inode, size and time, is copied.
        """
        names = _changed(self._whole, _states(self.live))
        for name in reversed(names):  # what lies in a folder before the folder
            path = self.live / name
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        for name in names:
            if (self.kept / name).is_dir():
                (self.live / name).mkdir()
            elif (self.kept / name).exists():
                shutil.copyfile(self.kept / name, self.live / name)
        self._whole = _states(self.live)
        if without:
            for path in self.outputs(without).values():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for file in (self.live / "work").glob(f"{without}*/**/*"):
                if file.is_file() and not file.name.startswith("vega-"):  # a library's own file, which takes seconds
                    file.unlink()

    def elsewhere(self, stage: str) -> list[str]:
        """What is not as it was of that which ``stage`` must not write."""
        own = tuple(self._own(stage))
        return [name for name in _changed(self._whole, _states(self.live)) if not f"{name}/".startswith(own)]

    def wrong_outputs(self, stage: str) -> list[str]:
        """The outputs of a stage that are there and not as they were."""
        wrong = []
        for path in self.outputs(stage).values():
            kept = self.kept / path.relative_to(self.live)
            if path.name == "report.html" and path.exists():
                try:
                    check_seal(path)  # it says how long stages took
                except StoreError as error:
                    wrong.append(str(error))
            elif path.is_dir():
                wrong += [] if files_of(path) == files_of(kept) else [str(path)]
            elif path.exists() and path.read_bytes() != kept.read_bytes():
                wrong.append(str(path))
        return wrong

    def absent(self, stage: str) -> list[str]:
        return [str(path) for path in self.outputs(stage).values() if not path.exists()]

    def leftovers(self) -> list[str]:
        return [str(path) for path in self.live.rglob(".*.tmp")]


def _values(folder: Path, live: Path) -> dict[str, Any]:
    """A profile of all stages that takes seconds, heat maps included."""
    values = demo_values(folder)
    values |= {name: str(live / Path(values[name]).name) for name in ("data", "work", "metrics", "summary")}
    values["propose"] |= {"source": "instances"}
    values["heat"] |= {"maps": ["clip_es"], "settings": {"clip_es": {"longest": 64}}}
    values["rules"]["enabled"].append("clip_es")
    values["variants"] |= {"switches": ["polygon_overlap"]}
    values |= {"sweep": {"alphas": 3, "betas": 3}}
    return values | {"report": {"cards": 1}, "bootstrap": {"resamples": 20, "seed": 0}}


def _states(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Relative path -> inode, size and time of a file, zeros for a folder."""
    found: dict[str, tuple[int, int, int]] = {}
    for place, folders, files in os.walk(folder):
        inside = os.path.relpath(place, folder)
        for name in files:
            stat = os.lstat(os.path.join(place, name))
            found[os.path.normpath(os.path.join(inside, name))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        found |= {os.path.normpath(os.path.join(inside, name)): (0, 0, 0) for name in folders}
    return found


def _changed(before: dict[str, tuple[int, int, int]], now: dict[str, tuple[int, int, int]]) -> list[str]:
    return sorted({name for name, _ in before.items() ^ now.items()})


def _kept(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load``, which gives the same again for the same arguments."""
    found: dict[str, Any] = {}

    def once(*words: Any, **named: Any) -> Any:
        key = repr((words, named))
        if key not in found:
            found[key] = load(*words, **named)
        return found[key]

    return once
