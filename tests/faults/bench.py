"""A finished tiny run to do harm to: its files as they were, to be put back, and its stages, to be run in child processes."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from demo.refshapes import write_benchmark
from pipeline.project import LoadedProject, load_project
from pipeline.registry import STAGES, stage_module
from pipeline.reruns import stage_values
from store.errors import StoreError
from store.seal import check_seal
from tests.faults.injection import in_child
from tests.helpers.full_disk import glimpse
from tests.helpers.profile import demo_values
from tests.helpers.store_files import files_of

_LIBRARIES = ("torch", "open_clip", "spacy", "zarr", "numba", "vl_convert", "jinja2", "dask.config")


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


class Bench:
    """A run of all stages below ``folder``, of the annotated objects as proposals, made in a child process.

    The live files are in ``folder/run``, their copies in ``folder/kept``. This process only imports: it can be forked.
    """

    def __init__(self, folder: Path) -> None:
        for name in _LIBRARIES:
            importlib.import_module(name)
        for name in STAGES:
            stage_module(name)
        self.folder, self.live, self.kept = folder, folder / "run", folder / "kept"
        write_benchmark(folder / "refer", images_per_split=1)
        values = demo_values(folder)
        values |= {name: str(self.live / Path(values[name]).name) for name in ("data", "work", "metrics", "summary")}
        values["propose"] |= {"source": "instances"}
        values["variants"] |= {"switches": ["polygon_overlap"]}
        values |= {"sweep": {"alphas": 3, "betas": 3}}
        values |= {"report": {"cards": 1}, "bootstrap": {"resamples": 20, "seed": 0}}
        self.profile = Path(values["profile"])
        self.profile.write_text(yaml.safe_dump(values))
        self.project: LoadedProject = load_project(self.profile)
        for stage in STAGES:
            status, result, said = self.run(stage)
            assert (status, result[0]) == (0, 0), (stage, result, said)
        shutil.copytree(self.live, self.kept)

    def words(self, stage: str) -> list[str]:
        return ["run", stage, "--profile", str(self.profile)]

    def run(self, stage: str, before: Callable[[], Any] | None = None, **limits: float) -> tuple[int, Any, str]:
        """Run a stage in a child, after ``before``: status of the child, (status, standard error) of the command, output."""

        def task() -> Any:
            os.environ["GLIMPSE_UNIT"] = "2"
            if before is not None:
                before()
            return glimpse(self.words(stage))

        return in_child(task, **limits)

    def outputs(self, stage: str) -> dict[str, Path]:
        """The outputs of a stage of the main encoder: field -> path."""
        files = stage_values(self.project, stage, {})[1]
        return {name: files[name] for name in stage_module(stage).Paths.outputs}

    def restore(self, without: str = "") -> None:
        """Put everything back as it was, but for the outputs and parts of stage ``without``."""
        shutil.rmtree(self.live)
        shutil.copytree(self.kept, self.live)
        if without:
            for path in self.outputs(without).values():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for folder in (self.live / "work").glob(f"{without}*"):
                shutil.rmtree(folder)

    def wrong_outputs(self, stage: str) -> list[str]:
        """The outputs of a stage that are there and not as they were, and leftovers."""
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
