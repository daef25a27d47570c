"""Vectors: what is streamed in comes back, or an error says so; every file damaged in every byte."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from store import schema, vectors
from store.errors import StoreError
from store.fingerprint import fingerprint
from store.vectors import Vectors, write_vectors
from tests.helpers.store_files import all_of, features, files_of, survivors, write_features


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CHUNK_ROWS", 2)
    monkeypatch.setattr(vectors, "SHARD_ROWS", 6)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("rows", [0, 1, 5, 6, 7, 12, 15])
@pytest.mark.parametrize("sizes", [(), (1,) * 15, (0, 4, 0, 7, 1), (13,)])
def test_streamed_blocks_equal_the_whole(tmp_path: Path, rows: int, sizes: tuple[int, ...]) -> None:
    stored = write_features(tmp_path / "v", rows, sizes, score_rule="cosine")
    opened = Vectors(tmp_path / "v", "mask_features")
    for name, values in stored.items():
        got = opened.rows(name)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, values)
        for start, stop in ((0, 2), (1, 8), (rows, rows), (rows // 2, None)):
            np.testing.assert_array_equal(opened.rows(name, start, stop), values[start:stop])
    assert opened.members("view") == ["global.k1", "global.k12", "local"]
    assert opened.column("status") == (["", "leer é"] * rows)[:rows]
    assert opened.attrs["score_rule"] == "cosine"
    assert (opened.attrs["config"], opened.attrs["made_from"]) == ({"k": 1}, {"proposals": "ab"})
    write_features(tmp_path / "whole", rows, score_rule="cosine")
    assert files_of(tmp_path / "v") == files_of(tmp_path / "whole")  # also the digest of the values
    assert not rows or len(list((tmp_path / "v" / "view.local").rglob("c/*/0"))) == -(-rows // 6)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("block", [1, 4, 6, 100])
def test_ranges_read_ahead_are_the_ranges(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, longer than a block, empty; in order, each row is read about once."""
    stored = write_features(tmp_path / "v", 15)
    opened = Vectors(tmp_path / "v", "mask_features")
    ahead = vectors.ReadAhead(opened, block)
    ranges = [(0, 0), (0, 3), (3, 4), (4, 14), (14, 15), (15, 15), (2, 2), (1, 9), (0, 15), (7, 7)]
    for start, stop in ranges:
        for name in stored:
            np.testing.assert_array_equal(ahead.rows(name, start, stop), opened.rows(name, start, stop))
    read = list[int]()
    rows = opened.rows
    monkeypatch.setattr(opened, "rows", lambda *given: (read.append(1), rows(*given))[1])
    ahead = vectors.ReadAhead(opened, block)
    for row in range(15):
        ahead.rows("view.local", row, row + 1)
    assert len(read) == -(-15 // block)


def test_small_columns_keep_their_dtypes(tmp_path: Path) -> None:
    columns = {
        "string": ["", "né", "\ud800"],
        "truncated": np.array([True, False, True]),
        "sentence_string": np.array([2, 0]),
        "phrase_string": np.array([1, 1]),
        "other_offsets": np.array([0, 1, 1]),
        "other_string": np.array([2]),
        "class_string": np.array([0]),
    }
    write_vectors(tmp_path / "t", "text_features", 3, 3, {"feature": [features(3)]}, columns, {}, {})
    opened = Vectors(tmp_path / "t", "text_features")
    assert opened.column("string") == columns["string"]
    for name in ("truncated", "sentence_string", "phrase_string"):
        assert opened.column(name).dtype == columns[name].dtype  # type: ignore[attr-defined]
        np.testing.assert_array_equal(opened.column(name), columns[name])


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([features(7)], "expected 8 rows, got 7"),
        ([], "expected 8 rows, got 0"),
        ([features(9)], "8 rows"),
        ([features(8), features(1)], "8 rows"),
        ([features(12)], "8 rows"),
        ([features(8), features(30)], "8 rows"),
        ([features(8).astype(np.float64)], "float64"),
        ([features(8).astype(np.float16)], "float16"),
        ([features(8, 1)], r"\(8, 1\)"),
        ([features(8, 4)], r"\(8, 4\)"),
    ],
)
def test_wrong_blocks(tmp_path: Path, blocks: list[NDArray[Any]], said: str) -> None:
    with pytest.raises(StoreError, match=f"column view.local.*{said}"):
        write_vectors(tmp_path / "v", "mask_features", 8, 3, {"view.local": blocks}, {"status": [""] * 8}, {}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "status", "said"),
    [
        (["view.local", "view.global.k0", "lokal"], 5, "lokal"),
        (["view.global.k0", "views.local"], 5, "views.local"),
        (["view.local"], 4, "4 in column|5 in column"),
    ],
)
def test_vectors_are_checked_by_the_schema(tmp_path: Path, names: list[str], status: int, said: str) -> None:
    blocks = {name: [features(5)] for name in names}
    with pytest.raises(StoreError, match=said):
        write_vectors(tmp_path / "v", "mask_features", 5, 3, blocks, {"status": [""] * status}, {}, {})
    assert not list(tmp_path.iterdir())


def test_no_folder_and_other_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"v.*glimpse repair .*/v$"):
        Vectors(tmp_path / "v", "mask_features")
    write_features(tmp_path / "v")
    with pytest.raises(StoreError, match=r"v: .*'text_features'.*'mask_features'.*glimpse repair .*/v$"):
        Vectors(tmp_path / "v", "text_features")
    with pytest.raises(StoreError, match=r"view\.global\.k3.*glimpse repair .*/v$"):
        Vectors(tmp_path / "v", "mask_features").rows("view.global.k3")
    written = schema.VERSION
    monkeypatch.setattr(schema, "VERSION", 7001)
    with pytest.raises(StoreError, match=rf"v: .*version 7001.*version {written}"):
        Vectors(tmp_path / "v", "mask_features")


@pytest.mark.usefixtures("small_shards")
def test_every_missing_or_short_file_is_an_error_on_opening(tmp_path: Path) -> None:
    """Zarr itself would read a missing shard as zeros."""
    folder = tmp_path / "v"
    write_features(folder)
    names = [name for name in files_of(folder) if name != vectors.MANIFEST]
    assert "view.local/c/2/0" in names
    for name in names:
        whole = (folder / name).read_bytes()
        for rest in (None, whole[:-1], b""):
            (folder / name).unlink()
            if rest is not None:
                (folder / name).write_bytes(rest)
            with pytest.raises(StoreError, match=rf"v/{name}.*glimpse repair .*/v$"):
                Vectors(folder, "mask_features")
            (folder / name).write_bytes(whole)
    Vectors(folder, "mask_features")
    (folder / vectors.MANIFEST).unlink()
    with pytest.raises(StoreError, match=r"glimpse repair .*/v$"):
        Vectors(folder, "mask_features")


@pytest.mark.usefixtures("small_shards")
def test_flipped_bytes_of_vectors(tmp_path: Path) -> None:
    """Every file: shards, Zarr's own metadata, the manifest."""
    folder = tmp_path / "v"
    write_features(folder, 7)
    for name in files_of(folder):
        assert not survivors(folder / name, 5 if "/c/" in name else 43, folder, lambda: all_of(folder)), name


def test_a_flipped_vector_is_found_on_reading_it_only(tmp_path: Path) -> None:
    stored = write_features(tmp_path / "v")
    shard = tmp_path / "v" / "view.local/c/0/0"
    data = bytearray(shard.read_bytes())
    data[data.index(stored["view.local"].tobytes()) + 1] ^= 64
    shard.write_bytes(data)
    opened = Vectors(tmp_path / "v", "mask_features")
    np.testing.assert_array_equal(opened.rows("view.global.k1"), stored["view.global.k1"])
    with pytest.raises(StoreError, match=r"v/view\.local: .*damaged.*glimpse repair .*/v$"):
        opened.rows("view.local", 3, 4)


@pytest.mark.usefixtures("small_shards")
def test_every_shard_of_equal_size_swapped_in_is_refused(tmp_path: Path) -> None:
    """Of another column, of another place, of another run; and a whole column."""
    folder, other = tmp_path / "v", tmp_path / "other"
    write_features(folder)
    values = features(15, seed=9)
    columns = {"view.local": [values], "view.global.k1": [values], "view.global.k12": [values]}
    write_vectors(other, "mask_features", 15, 3, columns, {"status": [""] * 15}, {}, {})
    shard = folder / "view.local/c/0/0"
    kept = shard.read_bytes()
    for swapped in (folder / "view.global.k1/c/0/0", folder / "view.local/c/1/0", other / "view.local/c/0/0"):
        assert len(swapped.read_bytes()) == len(kept)
        shard.write_bytes(swapped.read_bytes())
        with pytest.raises(StoreError, match=r"v/view.local/c/0/0: .*glimpse repair"):
            Vectors(folder, "mask_features")
    shard.write_bytes(kept)
    Vectors(folder, "mask_features")
    shutil.rmtree(folder / "view.local")
    shutil.copytree(other / "view.local", folder / "view.local")
    with pytest.raises(StoreError, match=r"v/view.local/c/0/0"):
        Vectors(folder, "mask_features")


@pytest.mark.usefixtures("small_shards")
def test_values_written_by_other_means_are_refused(tmp_path: Path) -> None:
    """Checksums fit, but they are not those that were written; also of a small column."""
    for column, value in (("view.local", 1.5), ("status.bytes", 65)):
        folder = tmp_path / column
        stored = write_features(folder)
        array = zarr.open_group(folder, mode="r+")[column]
        array[3] = value
        with pytest.raises(StoreError, match=rf"{folder}/{column}/c/0.*glimpse repair"):
            Vectors(folder, "mask_features")
        assert stored


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_goes_or_changes_after_opening(tmp_path: Path) -> None:
    """Zarr would read zeros. One that comes back as it was is read as it is."""
    folder = tmp_path / "v"
    stored = write_features(folder)
    shard, opened = folder / "view.local/c/1/0", Vectors(folder, "mask_features")
    np.testing.assert_array_equal(opened.rows("view.local"), stored["view.local"])
    kept = shard.read_bytes()
    shard.unlink()
    np.testing.assert_array_equal(opened.rows("view.local", 0, 6), stored["view.local"][:6])  # of other shards
    with pytest.raises(StoreError, match=r"v/view.local/c/1/0: .*found no file; .*glimpse repair"):
        opened.rows("view.local", 5, 7)
    shutil.copy(folder / "view.global.k1/c/1/0", shard)
    with pytest.raises(StoreError, match=r"v/view.local/c/1/0: expected what was written"):
        opened.rows("view.local")
    shard.write_bytes(kept)
    np.testing.assert_array_equal(opened.rows("view.local"), stored["view.local"])
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match=r"v/view.local: .*glimpse repair"):
        opened.rows("view.local")


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_is_away_only_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No moment at which a look finds it missing: it is moved away before the read and back after it, the same file."""
    folder = tmp_path / "v"
    stored = write_features(folder)
    shard, opened = folder / "view.local/c/1/0", Vectors(folder, "mask_features")
    get, reads = zarr.Array.__getitem__, []

    def hidden(array: Any, selection: Any) -> Any:
        away = tmp_path / "away"
        if not reads:
            shard.rename(away)
        values = get(array, selection)
        if not reads:
            away.rename(shard)
        reads.append(values)
        return values

    monkeypatch.setattr(zarr.Array, "__getitem__", hidden)
    np.testing.assert_array_equal(opened.rows("view.local"), stored["view.local"])
    assert not reads[0][6:12].any(), "the first read had zeros"


@pytest.mark.usefixtures("small_shards")
def test_zeros_are_no_missing_shard_and_nothing_may_stand_in_their_place(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    values = np.zeros((15, 3), np.float32)
    values[:6] = 1
    write_vectors(folder, "mask_features", 15, 3, {"view.local": [values]}, {"status": [""] * 15}, {}, {})
    assert not (folder / "view.local/c/1/0").exists()
    opened = Vectors(folder, "mask_features")
    np.testing.assert_array_equal(opened.rows("view.local"), values)
    (folder / "view.local/c/1").mkdir()
    shutil.copy(folder / "view.local/c/0/0", folder / "view.local/c/1/0")
    for read in (lambda: opened.rows("view.local"), lambda: Vectors(folder, "mask_features")):
        with pytest.raises(StoreError, match=r"v/view.local/c/1/0: expected what was written \(no file\)"):
            read()


def test_the_digest_stands_for_all_values(tmp_path: Path) -> None:
    write_features(tmp_path / "a", 5)
    opened = Vectors(tmp_path / "a", "mask_features")
    values = opened.rows("view.local")
    expected = hashlib.sha256(values.tobytes()).hexdigest()
    assert opened.attrs["columns"]["view.local"] == expected
    assert opened.digest == fingerprint(opened.attrs["columns"])
