"""Outputs appear whole or not at all, and replace links instead of writing through them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from store import publish
from store.table import read_table
from store.vectors import Vectors, write_vectors
from tests.helpers.store_files import features, files_of, proposals, write, write_features


def test_replacing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.txt"
    for text in ("one", "two"):
        with publish.replacing(path) as temporary:
            assert temporary.parent == path.parent
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
    with pytest.raises(OSError, match="disk full"), publish.replacing(file) as temporary:
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
