"""Pictures of one's own and the phrases about them, as `predict` takes them: files found, names in a table resolved."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from store.errors import ParameterError
from store.path_ends import PathEnds


@dataclass(frozen=True)
class Pictures:
    """Image files below one folder: ``names`` are their paths below ``root``, with "/"."""

    root: Path
    names: tuple[str, ...]

    @cached_property
    def _ends(self) -> PathEnds:
        return PathEnds(self.names)

    def called(self, name: str) -> str:
        """The picture that a table calls ``name``: its path from here or below ``root``, or what ``PathEnds`` finds.

        Raises:
            ParameterError: there is none, or it may be any of several.
        """
        here = Path(os.path.abspath(name))
        below = here.relative_to(self.root).as_posix() if here.is_relative_to(self.root) else ""
        found = [self.names[place] for place in self._ends.find(PurePath(os.path.normpath(name)).as_posix())]
        if below in self.names and found != [below]:
            return below
        if len(found) > 1:
            raise ParameterError(f"{name} may be any of {', '.join(found[:4])}; write more of its path")
        if not found:
            raise ParameterError(f"no picture {name} in {self.root} ({len(self.names):,} pictures); correct the name")
        return found[0]


def find_pictures(given: Sequence[str]) -> Pictures:
    """All pictures of folders (with what lies below them), files and patterns with *, ? and [].

    Raises:
        ParameterError: one of them names nothing, or there is no picture.
    """
    files: dict[Path, None] = {}
    for each in given:
        path = Path(each)
        matched = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(each, recursive=True))]
        if not matched:
            raise ParameterError(
                f"{each}: expected a folder of pictures, a file, or a pattern of files, found nothing; correct the path"
            )
        for match in matched:
            below = sorted(match.rglob("*")) if match.is_dir() else [match]
            files |= dict.fromkeys(f.absolute() for f in below if match.is_file() or _is_picture(f))
    if not files:
        raise ParameterError(f"{', '.join(given)}: expected pictures, found none; name a folder that holds some")
    single = Path(given[0]).absolute()
    root = single if len(given) == 1 and single.is_dir() else Path(os.path.commonpath([f.parent for f in files]))
    return Pictures(root, tuple(file.relative_to(root).as_posix() for file in files))


def resolved(rows: Sequence[Any], pictures: Pictures) -> tuple[list[Any], dict[int, str]]:
    """``rows`` of a table of phrases with the path of each picture below the root, and the rows whose picture is not to be
    found, by number from 1, with the reason: they keep what they say."""
    found, reasons = list(rows), dict[int, str]()
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict) and isinstance(row.get("image"), str) and row["image"]:
            try:
                found[number - 1] = {**row, "image": pictures.called(row["image"])}
            except ParameterError as error:
                reasons[number] = str(error)
    return found, reasons


def _is_picture(file: Path) -> bool:
    from PIL import Image

    return file.is_file() and Image.registered_extensions().get(file.suffix.lower()) in Image.OPEN
