"""What the commands share: their common options, and the first line that each prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.project import LoadedProject

ParamsFile = Annotated[
    Path,
    typer.Option("--params", envvar="GLIMPSE_PARAMS", help="params file of the profile (demo/params.yaml: the demo)"),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, all else on standard error")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="only this data set")]
SplitName = Annotated[str | None, typer.Option("--split", help="only this split")]


def opened(params: Path, numbers_of: str = "", to_errors: bool = False) -> LoadedProject:
    """The project of ``params``. The first line printed says which it is.

    Args:
        numbers_of: the stage whose outputs the command's numbers come from: a second line says so when they are stale.
        to_errors: print these lines to standard error, since standard output is read by a program.
    """
    from pipeline.project import load_project, profile_line

    project, file = load_project(params), sys.stderr if to_errors else sys.stdout
    print(profile_line(project), file=file)
    if numbers_of:
        from pipeline.freshness import stale_line

        if line := stale_line(project, numbers_of):
            print(line, file=file)
    return project
