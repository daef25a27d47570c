"""The command that looks whether files are what was written: ``glimpse check``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline.cli_shared import AsJson, ParamsFile, opened
from pipeline.registry import DEFAULT_PARAMS
from store.errors import plain


def check(
    params: ParamsFile = DEFAULT_PARAMS,
    repair: Annotated[
        bool, typer.Option("--repair", help="remove each bad unit, so that the next dvc repro makes just those again")
    ] = False,
    json: AsJson = False,
) -> None:
    """Whether everything of a profile on disk is what was written: reads all outputs, parts, records, and the objects in
    DVC's cache, and compares checksums, counts and what each was made from. Names each bad unit. Exit status 1 if there
    is any that was not removed.
    """
    from pipeline.commands import check as checking

    project = opened(params, to_errors=json)
    found = checking.faults(project)
    if repair and found:
        found = checking.drop(project, found)
    dropped = repair and bool(found)
    for line in [checking.as_json(project, found, dropped)] if json else checking.lines(project, found, dropped):
        print(plain(line))
    if found and not dropped:
        sys.exit(1)
