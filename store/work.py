"""The resumable work folder of a stage: append-only parts, each the finished work of one unit.

    <work>/<kind>/<config key>/config.json      what the results depend on, apart from the data
                              /manifest.jsonl   one line per part: file, inputs, seconds, skipped rows, digest of the line
                              /<n>.npz          the part, and what it is: kind, config key, inputs, skipped rows

The config key covers parameters, weights and code; the data do not enter it: a part says for which inputs (digests of
images, strings) it stands. A run computes the inputs that no part holds. A part is written under a temporary name and
renamed, and counts only once its line is in the manifest, so a kill loses at most one unit. Reading a part compares its
label with that line, which detects parts that were swapped or belong elsewhere, and lines that changed. A lock
(``store.locks``) excludes a second writer.
"""

from __future__ import annotations

import io
import json
import os
import shlex
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import schema
from store.errors import StoreError
from store.fingerprint import canonical, fingerprint
from store.publish import remove_leftovers, write_file, writing
from store.ragged import offsets_of

Item = Mapping[str, NDArray[Any]]
"""The result for one input: named arrays, ragged along their first axis."""

KEY_LENGTH = 20
"""Digits of a config key."""
_OPEN_PARTS = 4
_LABEL = "label"
_DIGEST = "digest"


def config_key(kind: str, config: Mapping[str, Any]) -> str:
    """What stands for a configuration of a kind: the name of the folder of its parts."""
    return fingerprint(_described(kind, config))[:KEY_LENGTH]


def _described(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "schema_version": schema.VERSION, **config}


class Parts:
    """The parts of one kind of result under one configuration.

    Attributes:
        folder: where they lie: ``<work>/<kind>/<config key>``.
        config: what the results depend on, apart from the data.
    """

    def __init__(self, work: Path, kind: str, config: Mapping[str, Any]) -> None:
        """Open or create the folder of ``kind`` for ``config``; remove what an interrupted write left there.

        Raises:
            StoreError: lines of the manifest are damaged.
        """
        described = _described(kind, config)
        self.folder = work / kind / config_key(kind, config)
        self.config = dict(config)
        file, text = self.folder / "config.json", json.dumps(described, indent=1, sort_keys=True).encode()
        if file.is_file() and file.read_bytes() == text:
            os.utime(file)  # `glimpse clean` asks when it was last opened
        else:
            write_file(file, text)
        self._where: dict[str, tuple[str, int]] = {}
        self._inputs: dict[str, list[str]] = {}
        self._open: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()
        remove_leftovers(self.folder)
        for line in self._manifest():
            self._count(line["part"], line["inputs"])

    def _count(self, part: str, keys: list[str]) -> None:
        self._inputs[part] = keys
        self._where.update({key: (part, position) for position, key in enumerate(keys)})

    def _manifest(self) -> list[dict[str, Any]]:
        """The manifest lines whose parts exist. An incomplete last line, of a killed run, is dropped: it never counted."""
        path = self.folder / "manifest.jsonl"
        text = path.read_bytes() if path.exists() else b""
        complete, newline, torn = text.rpartition(b"\n")
        if torn:  # the next line must not be appended to it
            write_file(path, complete + newline)
        lines = [manifest_line(text) for text in complete.split(b"\n")] if newline else []
        damaged = [str(number) for number, line in enumerate(lines, 1) if line is None]
        if damaged:
            command = f"sed -i '{';'.join(f'{number}d' for number in damaged)}' {shlex.quote(str(path))}"
            raise StoreError(
                f"{path}: damaged, its line {', '.join(damaged)} is not what was written; remove that line and run again, "
                f"which repeats its work alone: {command}"
            )
        return [line for line in lines if line is not None and (self.folder / line["part"]).is_file()]

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
        """Count a part that ``write_part`` wrote, here or in another process: from now on it stands for its inputs."""
        line = {"part": part, "inputs": list(keys), "seconds": round(seconds, 3), "skipped": list(skipped)}
        path = self.folder / "manifest.jsonl"
        with writing(path), path.open("a") as file:
            file.write(canonical({**line, _DIGEST: fingerprint(line)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._count(part, list(keys))

    def get(self, key: str) -> dict[str, NDArray[Any]]:
        """The item of one input.

        Raises:
            StoreError: no part holds it, or the part is damaged or not the expected one (remedy: remove that file).
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
            self._open[part] = read_part(self.folder / part, self._inputs[part])
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
    label = {**_place(folder), "inputs": list(keys), "skipped": list(skipped)}
    arrays[_LABEL] = np.frombuffer(canonical(label).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    part = part_name(keys)
    write_file(folder / part, buffer.getbuffer())
    return part


def read_part(path: Path, inputs: list[str]) -> dict[str, NDArray[Any]]:
    """The arrays of a part.

    Raises:
        StoreError: it is damaged, or not the part of these inputs in its folder (remedy: remove that file).
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # zip, numpy and OS errors alike: the part is not what was written
        raise StoreError(f"{path}: damaged part ({error}); remove it and run again") from error
    _require_label(path, arrays, inputs)
    return arrays


def skipped_of(folder: Path, keys: Sequence[str]) -> list[str] | None:
    """What was degenerate in the complete part of these inputs, counted or not; None if there is no such part."""
    try:
        with np.load(folder / part_name(keys), allow_pickle=False) as stored:
            label = json.loads({name: stored[name] for name in stored.files}[_LABEL].tobytes())
        return list(label["skipped"]) if label == {**label, **_place(folder), "inputs": list(keys)} else None
    except Exception:  # absent or damaged: it is computed again
        return None


def _place(folder: Path) -> dict[str, str]:
    """The kind and the config key that a folder of parts is for."""
    return {"kind": folder.parent.name, "config": folder.name}


def _require_label(path: Path, arrays: Mapping[str, NDArray[Any]], inputs: list[str]) -> None:
    """Raise a StoreError unless a part's label agrees with its folder and its manifest line."""
    expected = {**_place(path.parent), "inputs": inputs}
    label = json.loads(arrays[_LABEL].tobytes()) if _LABEL in arrays else {}
    other = [name for name, value in expected.items() if label.get(name) != value]
    if other:
        raise StoreError(
            f"{path}: expected the part that the manifest names, it is another one (its {', '.join(other)}: "
            f"{', '.join(_shown(label.get(name)) for name in other)}); remove it and run again"
        )


def _shown(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def manifest_line(text: bytes) -> dict[str, Any] | None:
    """A line of a manifest as it was written, else None."""
    try:
        line = json.loads(text)
        return line if line.pop(_DIGEST) == fingerprint(line) else None
    except (
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # no JSON, no object, without a digest, NaN
        return None
