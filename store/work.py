"""The resumable work folder of a stage: append-only parts, each the finished work of one unit.

    <work>/<kind>/<config key>/config.json      what the results depend on, apart from the data
                              /manifest.jsonl   one line per part: file, inputs, seconds, skipped rows
                              /<n>.npz          the part

The config key covers parameters, weights and code; the data do not enter it: a part says for which inputs (digests of
images, strings) it stands. A run computes the inputs that no part holds. A part is written under a temporary name and
renamed, and counts only once its manifest line stands, so a kill loses at most one unit. A lock keeps a second writer
out; the operating system frees it when the process dies.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import schema
from store.errors import BusyError, StoreError
from store.fingerprint import canonical, fingerprint
from store.publish import remove_leftovers, write_file, writing
from store.ragged import offsets_of

Item = Mapping[str, NDArray[Any]]
"""The result for one input: named arrays, ragged along their first axis."""

_OPEN_PARTS = 4
_SKIPPED = "skipped"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the only writer's lock of ``folder``.

    Raises:
        BusyError: another process holds it. StoreError: it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{folder}: another process writes here; wait for it, or stop it (killing only dvc leaves its child running)"
            ) from error
        yield


class Parts:
    """The parts of one kind of result under one configuration."""

    def __init__(self, work: Path, kind: str, config: Mapping[str, Any]) -> None:
        """Open (or make) the folder of ``kind`` for ``config``; drop what an interrupted write left there."""
        described = {"kind": kind, "schema_version": schema.VERSION, **config}
        self.folder = work / kind / fingerprint(described)[:20]
        file, text = self.folder / "config.json", json.dumps(described, indent=1, sort_keys=True).encode()
        if file.is_file() and file.read_bytes() == text:
            os.utime(file)  # `glimpse clean` asks when it was last opened
        else:
            write_file(file, text)
        self._where: dict[str, tuple[str, int]] = {}
        self._open: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()
        remove_leftovers(self.folder)
        for line in self._manifest():
            for position, key in enumerate(line["inputs"]):
                self._where[key] = (line["part"], position)

    def _manifest(self) -> list[dict[str, Any]]:
        path = self.folder / "manifest.jsonl"
        text = path.read_text() if path.exists() else ""
        whole, newline, torn = text.rpartition("\n")
        if torn:  # the last line of a killed run; the next one must not be glued to it
            write_file(path, whole + newline)
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            return [line for line in lines if (self.folder / line["part"]).is_file()]
        except (ValueError, KeyError) as error:
            raise StoreError(f"{path}: a damaged line ({error}); remove that line and run again") from error

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions in ``keys`` of the first occurrence of every key that no part holds, in order."""
        seen: set[str] = set()
        return [i for i, k in enumerate(keys) if k not in self._where and not (k in seen or seen.add(k))]  # type: ignore[func-returns-value]

    def append(self, keys: Sequence[str], items: Sequence[Item], seconds: float, skipped: Sequence[str] = ()) -> None:
        """Write one unit's finished work and count it: ``items[i]`` is the result for input ``keys[i]``."""
        if keys:
            self.record(write_part(self.folder, keys, items, skipped), keys, seconds, skipped)

    def record(self, part: str, keys: Sequence[str], seconds: float, skipped: Sequence[str] = ()) -> None:
        """Count a part that ``write_part`` wrote, here or in another process: only now it stands for its inputs."""
        line = {"part": part, "inputs": list(keys), "seconds": round(seconds, 3), "skipped": list(skipped)}
        path = self.folder / "manifest.jsonl"
        with writing(path), path.open("a") as file:
            file.write(canonical(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._where.update({key: (part, position) for position, key in enumerate(keys)})

    def get(self, key: str) -> dict[str, NDArray[Any]]:
        """The item of one input.

        Raises:
            StoreError: no part holds it, or the part is damaged (its remedy: remove that file).
        """
        if key not in self._where:
            raise StoreError(f"{self.folder}: no part holds input {key}")
        part, position = self._where[key]
        arrays = self._read(part)
        names = [name.removeprefix("rows:") for name in arrays if name.startswith("rows:")]
        bounds = {name: arrays[f"offsets:{name}"][position : position + 2] for name in names}
        return {name: arrays[f"rows:{name}"][slice(*bounds[name])] for name in names}

    def _read(self, part: str) -> dict[str, NDArray[Any]]:
        if part not in self._open:
            try:
                with (self.folder / part).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                    self._open[part] = {name: stored[name] for name in stored.files}
            except Exception as error:  # zip, numpy and OS errors alike: the part is not what was written
                raise StoreError(f"{self.folder / part}: damaged part ({error}); remove it and run again") from error
            if len(self._open) > _OPEN_PARTS:
                self._open.popitem(last=False)
        self._open.move_to_end(part)
        return self._open[part]


def part_name(keys: Sequence[str]) -> str:
    """File name of the part that holds exactly these inputs, in this order."""
    return f"{fingerprint(list(keys))[:20]}.npz"


def write_part(folder: Path, keys: Sequence[str], items: Sequence[Item], skipped: Sequence[str]) -> str:
    """Write ``items[i]``, the result for input ``keys[i]``, as one part of ``folder``; its file name. Needs no lock."""
    arrays: dict[str, Any] = {
        f"{end}:{name}": value
        for name in items[0]
        for end, value in (
            ("rows", np.concatenate([item[name] for item in items])),
            ("offsets", offsets_of(len(item[name]) for item in items)),
        )
    }
    arrays[_SKIPPED] = np.frombuffer(json.dumps(list(skipped)).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    part = part_name(keys)
    write_file(folder / part, buffer.getbuffer())
    return part


def skipped_of(folder: Path, keys: Sequence[str]) -> list[str] | None:
    """What was degenerate in a part that stands there whole, counted or not; None where there is none."""
    try:
        with np.load(folder / part_name(keys), allow_pickle=False) as stored:
            return list(json.loads(stored[_SKIPPED].tobytes()))
    except Exception:  # absent or damaged: it is computed again
        return None
