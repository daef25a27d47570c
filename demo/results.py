"""The last lines of `make demo`: whether the numbers are the committed ones, where the page is, what to do next.

Run as ``python -m demo.results`` in the project's folder after ``dvc repro demo/dvc.yaml``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from store.agreement import TOLERANCE, disagreements
from store.table import read_table

METRICS, SCORES, REPORT, LOCK = "demo/metrics.json", "data/demo/scores.h5", "data/demo/report.html", "demo/dvc.lock"


def lines(folder: Path) -> Iterator[str]:
    """What there is to say about a finished run of the demo in the project at ``folder``.

    Raises:
        StoreError: the demo has not run, or its scores are damaged.
    """
    fresh = read_table(folder / SCORES, "scores", ()).attrs["metrics"]
    committed = _committed(folder)
    if committed is None:
        yield "numbers: not compared, this folder is no git clone"
    elif differences := disagreements(committed, fresh):
        yield f"numbers: {len(differences)} are not those of the last commit (git diff {METRICS})"
        yield f"         the first: {differences[0].partition(':')[0]}"
    else:
        yield f"numbers: as committed in {METRICS}, to within {TOLERANCE:g}"
    if committed is not None:
        yield f"git:     {LOCK} is DVC's record of this run here; do not commit it"
    yield f"page:    {REPORT}"
    yield "next:    . .venv/bin/activate; glimpse status --params demo/params.yaml"
    yield '         then "Change one thing" in README.md'


def _committed(folder: Path) -> Any:
    """The metrics file of the last commit; None where there is no commit, or no git."""
    try:
        done = subprocess.run(
            ["git", "show", f"HEAD:./{METRICS}"], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # git itself
        return None
    return None if done.returncode else json.loads(done.stdout)


if __name__ == "__main__":
    print(*lines(Path()), sep="\n")
