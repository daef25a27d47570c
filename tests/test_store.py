"""The store: what is written comes back, or an error says so. Every kind of file, damaged in every byte."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from store import fingerprint, masks, publish, schema, vectors
from store.errors import StoreError
from store.ragged import Bytes, offsets_of, owners_of
from store.table import Table, as_rows, read_table, require_same, write_table
from store.vectors import Vectors, write_vectors

ROOT = Path(__file__).resolve().parent.parent
ANY_TEXT = st.text(st.characters(codec=None), max_size=12)  # every code point, lone surrogates too
PARSE = tuple(schema.PARSE.columns)


def proposals(rows: int = 3) -> dict[str, Any]:
    """Columns of a small, valid proposals table of two images."""
    return {
        "image_offsets": np.array([0, max(rows - 1, 0), rows]),
        "mask": [bytes([65 + i % 9]) * (i % 40) for i in range(rows)],
        "box": np.arange(4 * rows, dtype=np.float32).reshape(rows, 4),
        "score": np.linspace(1, 0, rows, dtype=np.float32),
        "area": np.arange(rows) * 10,
        "status": ["", "nichts gefunden – 無"],
    }


def write(path: Path, columns: dict[str, Any] | None = None, **attrs: Any) -> Table:
    return write_table(path, "proposals", columns or proposals(), {"x": 1}, {"index": "0f"}, **attrs)


def content(table: Table) -> dict[str, Any]:
    return {
        name: [*map(np.ndarray.tolist, [v])] if isinstance(v, np.ndarray) else list(v)
        for name, v in table.columns.items()
    }


# --- tables


def test_table_round_trip(tmp_path: Path) -> None:
    columns = proposals()
    write(tmp_path / "deep" / "t.h5", columns, groups=[("a", "b")], note="é")
    table = read_table(tmp_path / "deep" / "t.h5", "proposals")
    assert set(table.columns) == set(columns)
    for name in ("image_offsets", "box", "score", "area"):
        assert table[name].dtype == np.dtype(schema.PROPOSALS.columns[name].dtype)
        np.testing.assert_array_equal(table[name], columns[name])
    assert list(table["mask"]) == columns["mask"]
    assert table["mask"][1:] == columns["mask"][1:]
    assert table["status"] == columns["status"]
    assert (table.attrs["groups"], table.attrs["note"]) == ([["a", "b"]], "é")
    assert (table.attrs["config"], table.attrs["made_from"]) == ({"x": 1}, {"index": "0f"})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[ANY_TEXT] * len(PARSE)), max_size=5))
def test_any_text_comes_back(rows: list[tuple[str, ...]]) -> None:
    columns = {name: [row[i] for row in rows] for i, name in enumerate(PARSE)}
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "t.h5", "parse", columns, {}, {})
        table = read_table(Path(folder) / "t.h5", "parse")
    assert dict(table.columns) == columns


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=9), max_size=6))
def test_any_bytes_come_back(rows: list[bytes]) -> None:
    columns = {**proposals(len(rows)), "mask": rows}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "t.h5", columns)
        table = read_table(Path(folder) / "t.h5", "proposals", ["mask", "box"])
    assert list(table["mask"]) == rows
    assert set(table.columns) == {"mask", "box"}


def test_empty_table(tmp_path: Path) -> None:
    columns = {
        "image_offsets": np.zeros(1, np.int64),
        "mask": [],
        "box": as_rows([], "float32", 4),
        "score": as_rows([], "float32"),
        "area": as_rows([], "int64"),
        "status": [],
    }
    write(tmp_path / "t.h5", columns)
    table = read_table(tmp_path / "t.h5", "proposals")
    assert table["box"].shape == (0, 4)
    assert table["box"].dtype == np.float32
    assert (list(table["mask"]), table["status"]) == ([], [])


def test_columns_of_each_k(tmp_path: Path) -> None:
    table = schema.PAIRS
    assert table.column("a.k12") is table.per_k["a"]
    for wrong in ("a", "a.k", "c.k3", "a.kx", "a.k3.k4"):
        assert table.column(wrong) is None
    assert Table(Path("x"), {"a.k12": 0, "a.k3": 0, "b.k3": 0, "c": 0}).ks() == [3, 12]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"area": None}, r"missing columns \['area'\]"),
        ({"areas": np.zeros(3)}, r"unknown columns \['areas'\]"),
        ({"area.k3": np.zeros(3, np.int64)}, r"unknown columns \['area.k3'\]"),
        ({"area": np.zeros(3, np.int32)}, "column area: expected int64, got int32"),
        ({"score": np.zeros(3)}, "column score: expected float32, got float64"),
        ({"score": np.zeros(4, np.float32)}, "N is 3 .* 4 in column score"),
        ({"score": np.zeros((3, 1), np.float32)}, r"column score: expected shape \(N\)"),
        ({"box": np.zeros((3, 5), np.float32)}, "4 .* 5 in column box"),
        ({"box": np.zeros(12, np.float32)}, r"column box: expected shape \(N, 4\)"),
        ({"mask": [b"", b""]}, "N"),
        ({"status": [""]}, "expected 2 offsets, got 3"),
        ({"image_offsets": np.array([0, 3])}, "expected 3 offsets, got 2"),
    ],
)
def test_schema_violations(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    columns = {name: value for name, value in {**proposals(), **change}.items() if value is not None}
    with pytest.raises(StoreError, match=f"table proposals.*{said}"):
        write(tmp_path / "t.h5", columns)
    assert not list(tmp_path.iterdir())


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    columns = proposals(1000)
    write(tmp_path / "a.h5", columns, p=1, q=2)
    write(tmp_path / "b.h5", dict(reversed(columns.items())), q=2, p=1)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    other = write(tmp_path / "c.h5", {**columns, "area": columns["area"] + 1}, p=1, q=2)
    same = write(tmp_path / "d.h5", columns, p=9)
    first = read_table(tmp_path / "a.h5", "proposals")
    assert first.digest == same.digest != other.digest  # the digest stands for the columns alone


def test_the_written_table_is_the_read_one(tmp_path: Path) -> None:
    written = write(tmp_path / "t.h5", groups=[["a", "b"]])
    read = read_table(tmp_path / "t.h5", "proposals")
    assert dict(written.attrs) == dict(read.attrs) == dict(read_table(tmp_path / "t.h5", "proposals", ()).attrs)
    assert content(written) == content(read)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing\.h5.*dvc repro .*propose"):
        read_table(tmp_path / "nothing.h5", "proposals")


def test_other_table_version_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.h5"
    write(path)
    with pytest.raises(StoreError, match=r"t\.h5.*'overlap'.*'proposals'.*dvc repro .*overlap"):
        read_table(path, "overlap")
    with pytest.raises(StoreError, match=r"t\.h5.*no column boxes.*box.*dvc repro"):
        read_table(path, "proposals", ["boxes"])
    with pytest.raises(StoreError, match=r"t\.h5.*'boxes'"):
        read_table(path, "proposals")["boxes"]
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(StoreError, match=r"t\.h5.*version 2.*version 1.*dvc repro"):
        read_table(path, "proposals")


@pytest.mark.parametrize("data", [b"", b"not HDF5 at all", None], ids=["empty", "text", "other HDF5"])
def test_not_a_table(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "t.h5"
    if data is None:
        with h5py.File(path, "w") as file:
            file["x"] = 1
    else:
        path.write_bytes(data)
    with pytest.raises(StoreError, match=r"t\.h5.*dvc repro"):
        read_table(path, "proposals")


def survivors(path: Path, step: int, output: Path, read: Callable[[], Any]) -> list[int]:
    """Which of every ``step``-th byte of ``path``, flipped, changes the content read instead of raising a StoreError
    that names the ``output``."""
    whole, expected = path.read_bytes(), repr(read())
    silent: list[int] = []
    for at in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            found = repr(read()) == expected  # a byte that no reader looks at may change
        except StoreError as error:
            found = str(output) in str(error)
        silent += [] if found else [at]
    path.write_bytes(whole)
    assert repr(read()) == expected
    return silent


def test_flipped_bytes_of_a_table(tmp_path: Path) -> None:
    """Data and HDF5's own structure."""
    path = tmp_path / "t.h5"
    columns = proposals(20)
    write(path, columns)

    def read() -> Any:
        table = read_table(path, "proposals")
        return content(table), table.attrs

    data = path.read_bytes()
    assert not survivors(path, 11, path, read)
    damaged = bytearray(data)
    damaged[data.index(columns["area"].tobytes()) + 9] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"t\.h5.*damaged.*dvc repro"):
        read()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_table(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "t.h5"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(StoreError, match=r"t\.h5.*dvc repro"):
        read_table(path, "proposals")


def test_require_same(tmp_path: Path) -> None:
    first, other = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", proposals(4))
    columns = {
        "ref_offsets": np.zeros(1, np.int64),
        **{n: np.zeros(0, np.int64) for n in ("intersection", "union", "ref_area")},
    }
    made = write_table(tmp_path / "o.h5", "overlap", columns, {}, {"proposals": first.digest})
    require_same("pair", (made, "proposals", first))
    with pytest.raises(StoreError, match=r"pair: .*o\.h5 .*proposals.*b\.h5.*run stage overlap again: dvc repro"):
        require_same("pair", (made, "proposals", first), (made, "proposals", other))
    with pytest.raises(StoreError, match="index"):
        require_same("pair", (made, "index", first))


# --- vectors


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CHUNK_ROWS", 2)
    monkeypatch.setattr(vectors, "SHARD_ROWS", 6)


def features(rows: int, width: int = 3, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def write_features(
    path: Path, rows: int = 15, sizes: tuple[int, ...] = (), **attrs: Any
) -> dict[str, NDArray[np.float32]]:
    """A mask_features folder; ``sizes`` are the lengths of the streamed blocks, the rest comes in one."""
    stored = {name: features(rows, seed=seed) for seed, name in enumerate(("local", "global.k1", "global.k12"))}
    cuts = np.cumsum(sizes)
    blocks = {name: iter(np.split(value, cuts[cuts <= rows])) for name, value in stored.items()}
    status = ["", "leer é"] * rows
    write_vectors(
        path, "mask_features", rows, 3, blocks, {"status": status[:rows]}, {"k": 1}, {"proposals": "ab"}, **attrs
    )
    return stored


def all_of(path: Path) -> Any:
    opened = Vectors(path, "mask_features")
    columns = {name: opened.rows(name) for name in ("local", *(f"global.k{k}" for k in opened.ks()))}
    return {name: (c.shape, c.tobytes()) for name, c in columns.items()}, opened.column("status"), opened.attrs


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
    assert opened.ks() == [1, 12]
    assert opened.column("status") == (["", "leer é"] * rows)[:rows]
    assert opened.attrs["score_rule"] == "cosine"
    assert (opened.attrs["config"], opened.attrs["made_from"]) == ({"k": 1}, {"proposals": "ab"})
    write_features(tmp_path / "whole", rows, score_rule="cosine")
    assert files_of(tmp_path / "v") == files_of(tmp_path / "whole")  # also the digest of the values
    assert not rows or len(list((tmp_path / "v" / "local").rglob("c/*/0"))) == -(-rows // 6)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_small_columns_keep_their_dtypes(tmp_path: Path) -> None:
    columns = {
        "string": ["", "né", "\ud800"],
        "truncated": np.array([True, False, True]),
        "sentence_string": np.array([2, 0]),
        "phrase_string": np.array([1, 1]),
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
    with pytest.raises(StoreError, match=f"column local.*{said}"):
        write_vectors(tmp_path / "v", "mask_features", 8, 3, {"local": blocks}, {"status": [""] * 8}, {}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "status", "said"),
    [
        (["local", "global.k0", "lokal"], 5, "lokal"),
        (["global.k0"], 5, "local"),
        (["local"], 4, "4 in column|5 in column"),
    ],
)
def test_vectors_are_checked_by_the_schema(tmp_path: Path, names: list[str], status: int, said: str) -> None:
    blocks = {name: [features(5)] for name in names}
    with pytest.raises(StoreError, match=said):
        write_vectors(tmp_path / "v", "mask_features", 5, 3, blocks, {"status": [""] * status}, {}, {})
    assert not list(tmp_path.iterdir())


def test_no_folder_and_other_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"v.*dvc repro .*embed_masks"):
        Vectors(tmp_path / "v", "mask_features")
    write_features(tmp_path / "v")
    with pytest.raises(StoreError, match=r"v: .*'text_features'.*'mask_features'.*dvc repro .*embed_text"):
        Vectors(tmp_path / "v", "text_features")
    with pytest.raises(StoreError, match=r"global\.k3.*dvc repro .*embed_masks"):
        Vectors(tmp_path / "v", "mask_features").rows("global.k3")
    monkeypatch.setattr(schema, "VERSION", 7)
    with pytest.raises(StoreError, match=r"v: .*version 7.*version 1"):
        Vectors(tmp_path / "v", "mask_features")


@pytest.mark.usefixtures("small_shards")
def test_every_missing_or_short_file_is_an_error_on_opening(tmp_path: Path) -> None:
    """Zarr itself would read a missing shard as zeros."""
    folder = tmp_path / "v"
    write_features(folder)
    names = [name for name in files_of(folder) if name != vectors.MANIFEST]
    assert "local/c/2/0" in names
    for name in names:
        whole = (folder / name).read_bytes()
        for rest in (None, whole[:-1], b""):
            (folder / name).unlink()
            if rest is not None:
                (folder / name).write_bytes(rest)
            with pytest.raises(StoreError, match=rf"v/{name}.*dvc repro .*embed_masks"):
                Vectors(folder, "mask_features")
            (folder / name).write_bytes(whole)
    Vectors(folder, "mask_features")
    (folder / vectors.MANIFEST).unlink()
    with pytest.raises(StoreError, match=r"dvc repro .*embed_masks"):
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
    shard = tmp_path / "v" / "local/c/0/0"
    data = bytearray(shard.read_bytes())
    data[data.index(stored["local"].tobytes()) + 1] ^= 64
    shard.write_bytes(data)
    opened = Vectors(tmp_path / "v", "mask_features")
    np.testing.assert_array_equal(opened.rows("global.k1"), stored["global.k1"])
    with pytest.raises(StoreError, match=r"v/local: .*damaged.*dvc repro .*embed_masks"):
        opened.rows("local", 3, 4)


# --- publishing


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
        write_vectors(folder, "mask_features", 5, 3, {"local": failing()}, {"status": [""] * 5}, {}, {})
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
    assert len(Vectors(folder, "mask_features").rows("local")) == 4


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


# --- ragged


@given(st.lists(st.integers(0, 5), max_size=8))
def test_offsets_and_owners(counts: list[int]) -> None:
    offsets = offsets_of(counts)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(counts[:i]) for i in range(len(counts) + 1)]
    assert offsets_of(np.array(counts, np.int32)).tolist() == offsets_of(iter(counts)).tolist() == offsets.tolist()
    assert owners_of(offsets).tolist() == [i for i, n in enumerate(counts) for _ in range(n)]


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(-8, 8), st.integers(-8, 8))
def test_bytes_are_a_sequence(rows: list[bytes], start: int, stop: int) -> None:
    column = Bytes.of(iter(rows))
    assert len(column) == len(rows)
    assert list(column) == rows
    assert column[start:stop] == rows[start:stop]
    assert column[::-1] == rows[::-1]
    for i in range(-len(rows) - 2, len(rows) + 2):
        if -len(rows) <= i < len(rows):
            assert column[i] == rows[i] == column[np.int64(i)]
        else:
            with pytest.raises(IndexError, match=f"row {i} of a column of {len(rows)}"):
                column[i]


# --- masks


def runs_of(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths, column by column, starting with background: COCO's uncompressed counts."""
    counts, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != value:
                counts.append(0)
                value = not value
            counts[-1] += 1
    return counts


def compressed(runs: list[int]) -> bytes:
    """COCO's compressed counts: from the fourth run on the difference to the run two before; groups of five bits,
    lowest first, one more bit for "there is more", offset 48; the last group carries the sign."""
    out = bytearray()
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            out.append(48 + (group | (32 if more else 0)))
    return bytes(out)


SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 8), st.integers(1, 8))


@settings(deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays(bool, shape)))
def test_masks_against_loops(stack: NDArray[np.bool_]) -> None:
    counts = masks.encode(stack)
    assert counts == [compressed(runs_of(mask)) for mask in stack]
    decoded = masks.decode(counts, *stack.shape[1:])
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, stack)
    areas = masks.areas(iter(counts), *stack.shape[1:])
    assert areas.dtype == np.int64
    assert areas.tolist() == [sum(bool(v) for row in mask for v in row) for mask in stack]


@pytest.mark.parametrize("size", [(1, 1), (480, 640), (7, 2000)])
def test_empty_and_full_masks(size: tuple[int, int]) -> None:
    stack = np.stack([np.zeros(size, bool), np.ones(size, bool)])
    total = size[0] * size[1]
    counts = masks.encode(stack)
    assert counts == [compressed([total]), compressed([0, total])]
    assert masks.areas(counts, *size).tolist() == [0, total]
    np.testing.assert_array_equal(masks.decode(counts, *size), stack)
    assert masks.as_rle(counts[0], *size) == {"size": list(size), "counts": counts[0]}


# --- fingerprints

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def shuffled(value: Any) -> Any:
    """The same value with the keys of every object in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(v) for v in value] if isinstance(value, list) else value


@given(JSONS)
def test_key_order_does_not_matter(value: Any) -> None:
    assert fingerprint.canonical(value) == fingerprint.canonical(shuffled(value))
    assert fingerprint.fingerprint(value) == fingerprint.fingerprint(shuffled(value))
    assert len(fingerprint.fingerprint(value)) == 64


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 3), min_size=1), st.integers(4, 9))
def test_every_value_matters(value: dict[str, int], other: int) -> None:
    for key in value:
        assert fingerprint.fingerprint({**value, key: other}) != fingerprint.fingerprint(value)
    assert fingerprint.fingerprint([value]) != fingerprint.fingerprint(value)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": {"b": -float("inf")}}])
def test_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint.fingerprint(value)


def test_digests_of_files_and_arrays(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")  # the digest is the standard's own example
    assert fingerprint.file_digest(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    base = {"a": np.arange(6), "b": np.zeros(0, np.float32)}
    others: list[dict[str, NDArray[Any]]] = [
        {"b": base["b"], "c": base["a"]},
        {**base, "a": base["a"].reshape(2, 3)},
        {**base, "a": base["a"].astype(np.uint64)},
        {**base, "a": base["a"][::-1]},
        {**base, "b": np.zeros((0, 2), np.float32)},
        {"a": base["a"]},
    ]
    digests = {fingerprint.arrays_digest(arrays) for arrays in (base, *others)}
    assert len(digests) == 1 + len(others)
    strided = np.repeat(base["a"], 2)[::2]
    assert fingerprint.arrays_digest({"b": base["b"], "a": strided}) == fingerprint.arrays_digest(base)


# --- the code that a result depends on

MODULE = '''"""Docs."""
import os
from lib import tool  # a comment


class Thing:
    """Docs."""

    size: int = 1
    """Docs of the field."""

    def area(self, x):
        """Docs."""
        return tool.double(x) + self.size
'''


class Tree:
    """A throw-away project of modules ``app`` and ``lib``, whose digests follow its files."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        monkeypatch.setattr(fingerprint, "ROOT", root)
        monkeypatch.setattr(fingerprint, "PACKAGES", ("app", "lib"))
        for name, text in {
            "app/__init__.py": "",
            "app/main.py": MODULE,
            "app/other.py": "import app.main\n",
            "lib/__init__.py": "",
            "lib/tool.py": "def double(x):\n    from lib.deep import factor\n    return factor.TWO * x\n",
            "lib/deep/__init__.py": "",
            "lib/deep/factor.py": "import app.main\nTWO = 2\n",
            "lib/unused.py": "x = 1\n",
        }.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)
        fingerprint.import_closure.cache_clear()
        fingerprint.code_digest.cache_clear()

    def closure(self, module: str = "app.main") -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in fingerprint.import_closure(module)]

    def digest(self) -> str:
        return fingerprint.code_digest("app.main")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    yield Tree(tmp_path, monkeypatch)
    fingerprint.import_closure.cache_clear()
    fingerprint.code_digest.cache_clear()


def test_closure_of_a_small_tree(tree: Tree) -> None:
    """Through `from package import module`, an import inside a function, and a circle."""
    assert tree.closure() == ["app/main.py", "lib/deep/factor.py", "lib/tool.py"]
    assert tree.closure("lib.unused") == ["lib/unused.py"]
    assert tree.closure("app.nothing") == []
    assert tree.closure("os") == []


def test_a_package_that_holds_code_counts(tree: Tree) -> None:
    """Importing a.b.c runs a/__init__ and a/b/__init__ first."""
    for name in ("lib/__init__.py", "lib/deep/__init__.py"):
        tree.write(name, "y = 1\n")
        assert name in tree.closure()
    tree.write("app/__init__.py", "import lib.unused\n")
    assert {"app/__init__.py", "lib/unused.py"} <= set(tree.closure())


@pytest.mark.parametrize(
    "text",
    [
        MODULE.replace("Docs", "Other words"),
        MODULE.replace("  # a comment", "").replace("\n\n", "\n"),
        "# new\n"
        + MODULE.replace("tool.double(x) + self.size", "(\n            tool.double(x) + self.size\n        )  # why"),
        MODULE.replace('    """Docs of the field."""\n', ""),
        MODULE.replace('        """Docs."""\n', ""),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tree: Tree, text: str) -> None:
    before = tree.digest()
    assert text != MODULE
    tree.write("app/main.py", text)
    assert tree.digest() == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/main.py", MODULE.replace("size: int = 1", "size: int = 2")),
        ("app/main.py", MODULE.replace("+ self.size", "- self.size")),
        ("app/main.py", MODULE.replace("def area", "def areas")),
        ("app/main.py", MODULE + "\nNOTE = 'a string that is a value'\n"),
        ("lib/tool.py", "def double(x):\n    from lib.deep import factor\n    return x * factor.TWO\n"),
        ("lib/deep/factor.py", "import app.main\nTWO = 3\n"),
        ("lib/deep/__init__.py", "TWO = 2\n"),
    ],
)
def test_code_counts(tree: Tree, name: str, text: str) -> None:
    before = tree.digest()
    tree.write(name, text)
    assert tree.digest() != before


def test_code_elsewhere_does_not_count(tree: Tree) -> None:
    before = tree.digest()
    tree.write("lib/unused.py", "x = 2\n")
    tree.write("app/other.py", "x = 2\n")
    assert tree.digest() == before


@pytest.mark.parametrize("module", ["stages.score", "stages.pairs", "stages.visual.embed_masks", "pipeline.cli"])
def test_closure_holds_all_that_python_imports(module: str) -> None:
    """The closure also knows imports inside functions, so it may be larger than what importing loads."""
    listing = f"import sys, {module}\nfor m in list(sys.modules.values()):\n    print(getattr(m, '__file__', None))"
    done = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True)
    own = [ROOT / package for package in fingerprint.PACKAGES]
    loaded = {Path(line) for line in done.stdout.split("\n") if any(p in Path(line).parents for p in own)}
    with_code = {path for path in loaded if path.read_text().strip()}
    assert ROOT.joinpath(*module.split(".")).with_suffix(".py") in with_code
    assert with_code <= set(fingerprint.import_closure(module))
