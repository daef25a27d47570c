"""Which code made a run, and when: what the metrics file and the page record besides their numbers."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from store.fingerprint import ROOT

DISTRIBUTION = "glimpse-refseg"


def code_version() -> str:
    """The version of this package as it is installed, "" where it is not."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return ""


def commit(folder: Path = ROOT) -> str:
    """The git commit of the code in ``folder``, with ``+changes`` where tracked code differs from it; "" outside git."""
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "pipeline", "stages", "store")
    return f"{head[:12]}+changes" if changed else head[:12]


def identity() -> dict[str, str]:
    """``version``, ``commit`` and ``date`` (UTC, to the second) of this run."""
    now = datetime.now(UTC).replace(microsecond=0)
    return {"version": code_version(), "commit": commit(), "date": now.isoformat()}


def _git(folder: Path, *words: str) -> str:
    """What git says; "" where there is no git, no repository, or one of another user."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
