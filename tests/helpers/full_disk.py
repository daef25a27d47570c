"""A disk with little room: a small tmpfs where this process may mount one, and a limit on the size of files anywhere.

Run as a program it writes outputs of the store, or runs stages, at several fill levels, and says how many writes failed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from pipeline import cli
from stages.page.overlay import encoded
from store.document import read_document, write_document
from store.errors import StoreError
from store.publish import replacing, write_file
from store.table import read_table
from store.work import Parts
from tests.helpers.profile import ROOT
from tests.helpers.store_files import all_of, content, files_of, proposals, write, write_features
from tests.helpers.work_runs import item, same

LEVELS = 12
SAID = {"full": "No space left on device", "limit": "File too large"}


@contextmanager
def small_disk(folder: Path, megabytes: int = 4) -> Iterator[bool]:
    """A tmpfs at ``folder`` for as long as the block lasts; False where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and not subprocess.run(command, capture_output=True, check=False).returncode
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def room(how: str, folder: Path, size: int) -> Iterator[None]:
    """Let only ``size`` bytes more be written below ``folder``, or to any one file of this process (``limit``)."""
    if how == "limit":
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    ballast = folder / "ballast"
    left = shutil.disk_usage(folder).free - size
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, left)
    try:
        yield
    finally:
        ballast.unlink()


class Kind:
    """One kind of output: ``write(version)`` puts version 0 or 1 in its place, ``read()`` gives what stands there."""

    def __init__(self, path: Path, write: Callable[[int], Any], read: Callable[[], Any]) -> None:
        self.path, self.write, self.read = path, write, read


def kind_of(name: str, folder: Path) -> Kind:
    """The kind ``name`` below ``folder``; version 1 is larger and other than version 0."""

    def pixels(version: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(version).integers(0, 255, (90 + 90 * version, 200, 3), np.uint8))

    def variants(version: int) -> None:
        with replacing(folder / "variants") as temporary:
            temporary.mkdir()
            for number in range(1 + version):
                write(temporary / f"{number}.h5", proposals(3000))
            write_document(temporary / "variants.json", {"version": version}, "variants")

    def parts(version: int) -> None:
        keys = [f"{version} {number}" for number in range(40 + 400 * version)]
        opened = Parts(folder, "kind", {})
        if keys[0] not in opened:
            opened.append(keys, [item(key) for key in keys], 0.0)

    def held() -> list[bool]:
        opened = Parts(folder, "kind", {})
        keys = ("0 0", "1 399")
        assert all(same(opened.get(key), item(key)) for key in keys if key in opened)
        return [key in opened for key in keys]

    table, vectors, document = folder / "t.h5", folder / "v", folder / "d.json"
    kinds = {
        "table": Kind(
            table, lambda v: write(table, proposals(2000 + 2000 * v)), lambda: content(read_table(table, "proposals"))
        ),
        "vectors": Kind(vectors, lambda v: write_features(vectors, 2000 + 2000 * v), lambda: all_of(vectors)),
        "document": Kind(
            document,
            lambda v: write_document(document, {"x": list(range(5000 + 9000 * v))}, "score"),
            lambda: read_document(document, "score"),
        ),
        "page": Kind(
            folder / "r.html",
            lambda v: write_file(folder / "r.html", "<p>é</p>\n" * (9000 + 5000 * v)),
            (folder / "r.html").read_bytes,
        ),
        "picture": Kind(
            folder / "o.png",
            lambda v: write_file(folder / "o.png", encoded(pixels(v), ".png")),
            (folder / "o.png").read_bytes,
        ),
        "variants": Kind(folder / "variants", variants, lambda: files_of(folder / "variants")),
        "parts": Kind(folder / "kind", parts, held),
    }
    return kinds[name]


def write_kind(name: str, how: str, folder: Path) -> int:
    """Write version 1 over version 0 with ever more room; whatever happens, one of them stands there whole.

    Returns:
        How many writes failed.
    """
    other = kind_of(name, folder.parent / f"other {how} {name}")
    other.write(0)
    before = sum(map(len, files_of(other.path.parent).values()))
    other.write(1)
    sizes = list(map(len, files_of(other.path.parent).values()))
    size = max(sizes) if how == "limit" else sum(sizes) - before * (name == "parts")
    versions = [other.read()]
    kind = kind_of(name, folder)
    kind.write(0)
    versions.insert(0, kind.read())
    failed = 0
    for level in range(LEVELS):
        said: StoreError | None = None
        with room(how, folder, int(size * 1.3 * level / (LEVELS - 1))):
            try:
                kind.write(1)
            except StoreError as error:
                said = error
        assert kind.read() == versions[said is None], level
        assert not list(folder.rglob(".*.tmp"))
        if said is None:
            shutil.rmtree(kind.path) if kind.path.is_dir() else kind.path.unlink()
            kind.write(0)
        else:
            failed += 1
            assert SAID[how] in str(said), said
            assert kind.path.name in str(said), said
            assert "bytes free there" in str(said), said
            assert isinstance(said.__cause__, OSError)
    kind.write(1)
    assert kind.read() == versions[1]
    return failed


def run_stage(how: str, folder: Path, words: list[str], outputs: list[Path]) -> int:
    """Run `glimpse run` over outputs with another content, with ever more room; returns how many runs failed.

    Args:
        outputs: below ``folder``, the stage's own and its record.
    """
    status, said = glimpse(words)
    assert status == 0, said
    new = [output.read_bytes() for output in outputs]
    size = max(map(len, new)) if how == "limit" else sum(map(len, new))
    failed = 0
    for level in range(LEVELS):
        for output in outputs:
            output.write_bytes(b"old")
        with room(how, folder, int(size * 1.3 * level / (LEVELS - 1))):
            status, said = glimpse(words)
        found = [output.read_bytes() for output in outputs[:-1]]  # the record holds seconds
        assert all(got in (b"old", whole) for got, whole in zip(found, new, strict=False)), (words[1], level)
        assert not list(folder.rglob(".*.tmp"))
        if status:
            failed += 1
            assert status == 1, said
            assert re.fullmatch(r"error: .* cannot be written: .*\n", said), said
        else:
            assert found == new[:-1], (words[1], level)
    return failed


def glimpse(words: list[str]) -> tuple[int, str]:
    """Exit status and standard error of a command, run in this process; without a date, so that equal runs give equal bytes."""
    with (
        mock.patch.object(sys, "argv", ["glimpse", *words]),
        contextlib.redirect_stderr(io.StringIO()) as said,
        contextlib.redirect_stdout(io.StringIO()),
        mock.patch("pipeline.runner.identity", return_value={}),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
    return 0, said.getvalue()


def main(how: str, folder: Path, tasks: dict[str, Any]) -> None:
    """Do the tasks: kind -> None, or stage -> {words, outputs}; a line for each, as soon as it is done."""
    for name, task in tasks.items():
        inside = folder / name
        if task is None:
            failed = write_kind(name, how, inside)
        else:
            failed = run_stage(how, folder, task["words"], [Path(output) for output in task["outputs"]])
        print(name, failed, flush=True)


def on_a_full_disk(how: str, folder: Path, tasks: Mapping[str, Any]) -> dict[str, int]:
    """``main`` in a process of its own, which may crash; what it printed.

    Args:
        how: full: on a tmpfs mounted at ``folder``; limit: anywhere.
    """
    command = [sys.executable, "-m", "tests.helpers.full_disk", how, str(folder), json.dumps(tasks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: int(failed) for name, failed in map(str.split, done.stdout.splitlines())}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
