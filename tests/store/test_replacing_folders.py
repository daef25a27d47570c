"""A folder of vectors that is replaced while it is read: the reader has the old or the new one, never none, never a mixture."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from store import publish, vectors
from store.publish import replacing
from store.vectors import MANIFEST, Vectors
from tests.helpers.store_files import features, write_features


@pytest.mark.parametrize("exchange", [True, False])
def test_readers_while_it_is_replaced(tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one system call where there is one, and in two steps elsewhere."""
    if not exchange:
        monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    path = tmp_path / "v"
    write_features(path, 15)
    ended = threading.Event()

    def replace() -> None:
        for number in range(15):
            write_features(path, 600 if number % 2 else 15)
        ended.set()

    thread = threading.Thread(target=replace)
    thread.start()
    opened, absent, sizes = 0, 0, set()
    while not ended.is_set():
        absent += not (path / MANIFEST).exists()
        sizes.add(Vectors(path, "mask_features").rows_stored)
        opened += 1
    thread.join()
    assert opened > 10
    assert sizes == {15, 600}
    if exchange:
        assert not absent
    values = Vectors(path, "mask_features").rows("view.local")
    np.testing.assert_array_equal(values, features(15))
    assert [file.name for file in tmp_path.iterdir()] == ["v"]


@pytest.mark.parametrize("read", ["column", "rows"])
def test_a_reader_of_the_old_one_is_told_that_there_is_another(tmp_path: Path, read: str) -> None:
    """Not that the new one is damaged: nothing is to be repaired. Equal content is read on, and damage keeps its name."""
    path = tmp_path / "v"
    write_features(path, 15)
    opened = Vectors(path, "mask_features")
    write_features(path, 15)
    np.testing.assert_array_equal(opened.rows("view.local"), features(15))
    assert opened.column("status") == (["", "leer é"] * 15)[:15]
    write_features(path, 14)
    with pytest.raises(
        vectors.StoreError, match=r"v: another run replaced it while it was read; run the same command again$"
    ):
        opened.rows("view.local") if read == "rows" else opened.column("status")
    opened = Vectors(path, "mask_features")
    shard = path / ("view.local/c/0/0" if read == "rows" else "status.bytes/c/0")
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    with pytest.raises(vectors.StoreError, match="glimpse repair"):
        opened.rows("view.local") if read == "rows" else opened.column("status")


def test_it_is_replaced_in_one_step(tmp_path: Path) -> None:
    """At no system call on the way is there no folder, or half of one."""
    path = tmp_path / "v"
    seen: list[set[str]] = []

    def publish_folder(names: set[str]) -> None:
        with replacing(path) as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).touch()

    publish_folder({"a", "b"})
    real = publish._exchange

    def watched(one: Path, other: Path) -> bool:
        seen.append({file.name for file in other.iterdir()})
        done = real(one, other)
        seen.append({file.name for file in other.iterdir()})
        return done

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publish, "_exchange", watched)
        publish_folder({"c"})
    assert seen == [{"a", "b"}, {"c"}]


def test_a_folder_that_never_comes_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pause(seconds: float) -> None:
        raise AssertionError("waited although nobody writes")

    monkeypatch.setattr(vectors.time, "sleep", no_pause)
    with pytest.raises(vectors.StoreError, match="found none"):
        Vectors(tmp_path / "v", "mask_features")
