"""What ``make env`` compiles is what the stages call: after it they compile nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.profile import ROOT

STAGES = """
from pathlib import Path
from demo.refshapes import write_benchmark
from tests.helpers.profile import profile_at, run_stages
folder = Path({folder!r})
write_benchmark(folder / "refer", images_per_split=1)
values = profile_at(folder, folder / "refer")
values["rules"]["enabled"].append("weighted")
run_stages(values, "index", "propose", "parse", "overlap", "heat", "embed_masks", "embed_text", "pair", "score", "sweep")
"""


def compiled(cache: Path) -> set[str]:
    """The compiled functions, a file for each set of types of arguments."""
    return {file.name for file in cache.rglob("*.nbc")}


def test_nothing_is_left_to_compile(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def python(*words: str) -> None:
        subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, capture_output=True)

    python("-m", "pipeline.setup.kernels")
    before = compiled(tmp_path / "cache")
    functions = {f"{file.stem}.{name}" for file in (ROOT / "stages").rglob("*_kernel.py") for name in decorated(file)}
    assert {name.partition("-")[0] for name in before} == functions
    python("-c", STAGES.format(folder=str(tmp_path / "run")))
    assert compiled(tmp_path / "cache") == before


def decorated(file: Path) -> list[str]:
    """The names of the functions that numba compiles, as they stand in ``file``."""
    lines = file.read_text().splitlines()
    marked = [number for number, line in enumerate(lines) if line == "@compiled" or line.startswith("@njit")]
    assert marked, f"{file}: no compiled function was found"
    return [lines[number + 1].removeprefix("def ").partition("(")[0] for number in marked]
