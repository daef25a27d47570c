"""Whether the parts in a work folder are what was written: their configuration, the lines of their manifest, themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.errors import StoreError
from store.fingerprint import fingerprint
from store.publish import remove, write_file
from store.work import KEY_LENGTH, manifest_line, read_part


@dataclass(frozen=True)
class BadPart:
    """What is wrong in a folder of parts; ``drop`` removes just that, so that its work is done again.

    Attributes:
        path: the file that is damaged or another one. line: its line, counted from 1; 0 for the whole file.
    """

    path: Path
    line: int
    what: str
    drop: Callable[[], None]


def bad_parts(folder: Path) -> Iterator[BadPart]:
    """What is damaged, or belongs elsewhere, in the parts of one configuration (``<work>/<kind>/<config key>``).

    A last line without its end was never counted, nor was a part without a line: both are what a kill leaves.
    """
    config = folder / "config.json"
    if config.is_file() and not _is_config_of(folder, config):
        what = "expected the configuration that the name of its folder stands for, found another, or damaged text"
        yield BadPart(config, 0, what, partial(remove, config))
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        return
    complete, newline, _ = manifest.read_bytes().rpartition(b"\n")
    texts = complete.split(b"\n") if newline else []
    lines = [_line(text) for text in texts]
    good = b"".join(text + b"\n" for text, line in zip(texts, lines, strict=True) if line is not None)
    for number, line in enumerate(lines, 1):
        if line is None:
            what = "expected the line that was written, its digest is another one"
            yield BadPart(manifest, number, what, partial(write_file, manifest, good))
    inputs = {str(line["part"]): list(line["inputs"]) for line in lines if line is not None}
    for part, keys in inputs.items():  # of two lines of one part the later counts, as for ``Parts``
        path = folder / part
        if path.exists():
            try:
                _require_rows(path, read_part(path, keys), len(keys))
            except StoreError as error:
                yield BadPart(path, 0, str(error).removeprefix(f"{path}: "), partial(remove, path))


def _line(text: bytes) -> dict[str, Any] | None:
    """A line as it was written, of a part in the folder itself; else None."""
    line = manifest_line(text)
    return line if line is not None and Path(line["part"]).name == line["part"] else None


def _is_config_of(folder: Path, file: Path) -> bool:
    try:
        described = json.loads(file.read_bytes())
        return described["kind"] == folder.parent.name and fingerprint(described)[:KEY_LENGTH] == folder.name
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _require_rows(path: Path, arrays: Mapping[str, NDArray[Any]], inputs: int) -> None:
    """Raise a StoreError unless the ragged arrays of a part have rows for each of its inputs."""
    for name, offsets in arrays.items():
        kind, _, of = name.partition(":")
        if kind != "offsets":
            continue
        rows = arrays.get(f"rows:{of}")
        if rows is None or len(offsets) != inputs + 1 or offsets[-1] != len(rows) or (np.diff(offsets) < 0).any():
            raise StoreError(f"{path}: expected rows of {of} for {inputs} inputs, its offsets are others; remove it")
