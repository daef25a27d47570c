"""Outputs appear whole or not at all, and replace links instead of writing through them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from store import publish
from store.errors import StoreError
from store.table import read_table
from store.vectors import Vectors, write_vectors
from tests.helpers.profile import ROOT
from tests.helpers.store_files import features, files_of, proposals, write, write_features


def test_replacing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.txt"
    for text in ("one", "two"):
        with publish.replacing(path) as temporary:
            assert temporary.parent.parent == path.parent
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "one"
    assert (path.read_text(), list(path.parent.iterdir())) == ("two", [path])


def test_a_failed_write_leaves_the_old_output_and_no_temporary(tmp_path: Path) -> None:
    file, folder = tmp_path / "t.h5", tmp_path / "v"
    write(file)
    write_features(folder)
    before = file.read_bytes(), files_of(folder)

    def half_a_write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "disk full")

    def failing() -> Iterator[NDArray[np.float32]]:
        yield features(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_vectors(folder, "mask_features", 5, 3, {"view.local": failing()}, {"status": [""] * 5}, {}, {})
    with pytest.raises(TypeError):
        write(file, note=object())
    with (
        pytest.raises(StoreError, match=r"t\.h5: cannot be written: No space left on device"),
        publish.replacing(file) as temporary,
    ):
        half_a_write(temporary)
    assert (file.read_bytes(), files_of(folder)) == before
    assert sorted(tmp_path.iterdir()) == [file, folder]


def test_hard_linked_outputs_are_not_written_through(tmp_path: Path) -> None:
    """DVC links an output to its cache: writing into it would corrupt the cache."""
    file, folder, cache = tmp_path / "t.h5", tmp_path / "v", tmp_path / "cache"
    write(file)
    write_features(folder)
    cache.mkdir()
    os.link(file, cache / "t.h5")
    shutil.copytree(folder, cache / "v", copy_function=os.link)
    before = files_of(cache)
    write(file, proposals(9))
    write_features(folder, 4)
    assert files_of(cache) == before
    assert len(read_table(file, "proposals")["mask"]) == 9
    assert len(Vectors(folder, "mask_features").rows("view.local")) == 4


@pytest.mark.parametrize("dangling", [False, True])
def test_linked_outputs_are_replaced_not_followed(tmp_path: Path, dangling: bool) -> None:
    """DVC may also make symbolic links; after `dvc gc` or on another machine they may dangle."""
    cache = tmp_path / "cache"
    if not dangling:
        cache.mkdir()
        write(cache / "t.h5")
        write_features(cache / "v")
    before = files_of(cache)
    for name in ("t.h5", "v"):
        (tmp_path / name).symlink_to(cache / name)
    write(tmp_path / "t.h5", proposals(9))
    write_features(tmp_path / "v", 4)
    assert files_of(cache) == before
    assert not (tmp_path / "t.h5").is_symlink()
    assert not (tmp_path / "v").is_symlink()


def test_remove(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "f").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    publish.remove(tmp_path / "link")
    assert (tmp_path / "d" / "e").is_dir()
    for name in ("d", "f", "never"):
        publish.remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


# --- several writers

WRITER = """
import os, sys, time
from pathlib import Path
from store.publish import replacing
path, number, folder = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "folder"
for turn in range(int(sys.argv[4])):
    with replacing(path) as temporary:
        if folder:
            temporary.mkdir()
        for name in "ab":
            (temporary / name if folder else temporary).write_text(f"{number} " * 1000)
            if turn == 0:
                print("inside", flush=True)
                sys.stdin.readline()
"""


def writer(path: Path, number: int, what: str, turns: int) -> subprocess.Popen[str]:
    """A process that replaces ``path`` ``turns`` times; inside the first it says so, and waits for a line before each step."""
    command = [sys.executable, "-c", WRITER, str(path), str(number), what, str(turns)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_living_writers_temporary_stays_a_dead_ones_goes(what: str, tmp_path: Path) -> None:
    path = tmp_path / "out.x"
    with writer(path, 1, what, 1) as living, writer(path, 2, what, 1) as dead:
        assert living.stdout is not None
        assert dead.stdout is not None
        assert {living.stdout.readline(), dead.stdout.readline()} == {"inside\n"}
        assert len(list(tmp_path.glob(".*.tmp"))) == 2
        dead.kill()
        dead.wait()
        if what == "file":
            publish.write_file(path, "mine")
        else:
            with publish.replacing(path) as temporary:
                temporary.mkdir()
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        publish.remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        living.communicate("\n\n", timeout=60)
        assert living.returncode == 0
    assert set((path / "a" if what == "folder" else path).read_text().split()) == {"1"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_many_writers_of_one_output(what: str, tmp_path: Path) -> None:
    path = tmp_path / "out.x"
    writers = [writer(path, number, what, 60) for number in range(4)]
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("\n\n")
        process.stdin.flush()
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    files = [path / "a", path / "b"] if what == "folder" else [path]
    assert len({file.read_text() for file in files}) == 1
    assert len(files[0].read_text().split()) == 1000
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_any_form_are_removed(tmp_path: Path) -> None:
    """Of a writer killed between its first steps, and of older versions, which had no locks."""
    for name in ("1", "2"):
        (tmp_path / f".t.{name}.tmp").mkdir()
    (tmp_path / ".t.2.tmp" / "lock").touch()
    (tmp_path / ".t.3.tmp").write_text("half a file")
    (tmp_path / ".t.4.tmp" / "c").mkdir(parents=True)
    (tmp_path / ".other.5.tmp").write_text("half of another output")
    publish.write_file(tmp_path / "t", "x")
    assert {p.name for p in tmp_path.iterdir()} == {"t", ".other.5.tmp"}
    publish.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "t"]
