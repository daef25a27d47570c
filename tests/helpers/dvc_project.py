"""A copy of the project in a folder of its own, with git, DVC and a small benchmark."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from demo.refshapes import write_benchmark
from pipeline.project import load_project
from pipeline.registry import PER_ENCODER, STAGES, Instance
from pipeline.runner import run_words
from pipeline.setup.inputs import require_inputs
from tests.helpers.profile import ROOT, plain_values


class Project:
    """A git and DVC project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pipeline", "stages", "store", "demo", "models", "maps", "masks", "extensions", ".dvc"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "cache", "tmp"))
        for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "demo/dvc.lock").unlink(missing_ok=True)
        write_benchmark(folder / "data/refshapes", images_per_split=2)
        variants = {"switches": ["polygon_overlap", "box", "fill"], "templates": ["a picture of {}"]}
        (folder / "demo/params.yaml").write_text(yaml.safe_dump(plain_values(), sort_keys=False))
        self.set(
            variants=variants,
            sweep={"alphas": 3, "betas": 3},
            report={"cards": 1},
            bootstrap={"resamples": 20},
        )
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"],
        ):
            subprocess.run(["git", *words], cwd=folder, check=True)

    def set(self, **sections: dict[str, Any]) -> None:
        file = self.folder / "demo/params.yaml"
        values = yaml.safe_load(file.read_text())
        for section, change in sections.items():
            values[section] |= change
        file.write_text(yaml.safe_dump(values, sort_keys=False))

    def typed(self, line: str, status: int = 0) -> str:
        """What a line typed in the project's folder says; it is to end with ``status``."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder)}
        for name in ("GLIMPSE_BATCH", "GLIMPSE_UNIT"):
            environment.pop(name, None)
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def dvc(self, *words: str) -> str:
        return self.typed(shlex.join(["dvc", *words]))

    def repro(self) -> list[str]:
        """Names of the stages that ran."""
        return re.findall(r"Running stage 'demo/dvc\.yaml:(\w+)(?:@\w+)?'", self.dvc("repro", "demo/dvc.yaml"))

    def record(self, stage: str) -> dict[str, Any]:
        return dict(
            json.loads(
                (
                    self.folder
                    / f".work/demo/records/{Instance(stage, 'vit' if stage in PER_ENCODER else '').name}.json"
                ).read_text()
            )
        )


def flip(file: Path, at: int | None = None) -> None:
    """Flip a bit (in the middle by default) as a disk does: neither the time nor the mode of the file tells."""
    stat = file.stat()
    place = stat.st_size // 2 if at is None else at
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(place)
        (byte,) = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte ^ 1]))
    file.chmod(stat.st_mode & 0o777)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def finished(folder: Path, **sections: dict[str, Any]) -> Project:
    """A project whose stages have all run: in this process, which takes seconds, and then recorded by DVC."""
    project = Project(folder)
    project.set(**({"variants": {"switches": ["fill"], "templates": ["a picture of {}"]}} | sections))
    before = Path.cwd()
    os.chdir(folder)
    try:
        require_inputs(load_project(Path("demo/params.yaml")))
        for stage in STAGES:
            run_words(stage, ["--profile", "demo/params.yaml"])
    finally:
        os.chdir(before)
    project.dvc("commit", "--force", "demo/dvc.yaml")
    return project
