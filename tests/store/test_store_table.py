"""Tables: what is written comes back, or an error says so; damaged in every byte."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.parse import spatial_columns
from stages.text.relations import NO_SPATIAL
from store import schema
from store.errors import StoreError
from store.fingerprint import fingerprint
from store.table import as_rows, content_digest, read_table, require_same, write_table
from tests.helpers.store_files import content, proposals, survivors, write

ANY_TEXT = st.text(st.characters(codec=None), max_size=12)  # every code point, lone surrogates too
PARSE = [name for name, column in schema.PARSE.columns.items() if column.dtype == "utf8"]


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
        numbers = spatial_columns([NO_SPATIAL._asdict()] * len(rows))
        write_table(Path(folder) / "t.h5", "parse", columns | numbers, {}, {})
        table = read_table(Path(folder) / "t.h5", "parse", PARSE)
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
        "state": [],
    }
    write(tmp_path / "t.h5", columns)
    table = read_table(tmp_path / "t.h5", "proposals")
    assert table["box"].shape == (0, 4)
    assert table["box"].dtype == np.float32
    assert (list(table["mask"]), table["status"]) == ([], [])


def test_families_of_columns() -> None:
    table = schema.PAIRS
    assert table.column("dot.global.k3*sentence") is table.families["dot"]
    assert table.column("proposal") is table.columns["proposal"]
    for wrong in ("dot", "dot.", "dots.x", "proposal.x", "global.k3"):
        assert table.column(wrong) is None
    assert schema.members(["dot.b*c", "dot.a", "dotty.x", "union"], "dot") == ["b*c", "a"]


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
        ({"status": [""], "state": [""]}, "expected 2 offsets, got 3"),
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
    with pytest.raises(StoreError, match=r"nothing\.h5.*glimpse repair .*nothing\.h5$"):
        read_table(tmp_path / "nothing.h5", "proposals")


def test_other_table_version_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.h5"
    write(path)
    with pytest.raises(StoreError, match=r"t\.h5.*'overlap'.*stage overlap, .*'proposals'.*glimpse repair .*t\.h5$"):
        read_table(path, "overlap")
    with pytest.raises(StoreError, match=r"t\.h5.*no column boxes.*box.*glimpse repair .*t\.h5$"):
        read_table(path, "proposals", ["boxes"])
    with pytest.raises(StoreError, match=r"t\.h5.*'boxes'"):
        read_table(path, "proposals")["boxes"]
    written = schema.VERSION
    monkeypatch.setattr(schema, "VERSION", 7001)
    with pytest.raises(StoreError, match=rf"t\.h5.*version 7001.*version {written}.*glimpse repair .*t\.h5$"):
        read_table(path, "proposals")


@pytest.mark.parametrize("data", [b"", b"not HDF5 at all", None], ids=["empty", "text", "other HDF5"])
def test_not_a_table(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "t.h5"
    if data is None:
        with h5py.File(path, "w") as file:
            file["x"] = 1
    else:
        path.write_bytes(data)
    with pytest.raises(StoreError, match=r"t\.h5.*glimpse repair .*t\.h5$"):
        read_table(path, "proposals")


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
    with pytest.raises(StoreError, match=r"t\.h5.*damaged.*glimpse repair .*t\.h5$"):
        read()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_table(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "t.h5"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(StoreError, match=r"t\.h5.*glimpse repair .*t\.h5$"):
        read_table(path, "proposals")


def test_require_same(tmp_path: Path) -> None:
    first, other = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", proposals(4))
    columns = {
        "ref_offsets": np.zeros(1, np.int64),
        **{n: np.zeros(0, np.int64) for n in ("intersection", "union", "ref_area")},
    }
    made = write_table(tmp_path / "o.h5", "overlap", columns, {}, {"proposals": first.digest})
    require_same("pair", (made, "proposals", first))
    with pytest.raises(StoreError, match=r"pair: .*o\.h5 .*proposals.*b\.h5.*glimpse repair .*o\.h5$"):
        require_same("pair", (made, "proposals", first), (made, "proposals", other))
    with pytest.raises(StoreError, match="index"):
        require_same("pair", (made, "index", first))


def test_a_column_of_another_table_is_refused(tmp_path: Path) -> None:
    """Its checksum fits. Whatever else is read of the table is found good."""
    path, other = tmp_path / "t.h5", tmp_path / "other.h5"
    write(path)
    columns = proposals()
    write(other, {**columns, "area": columns["area"] + 1, "status": ["", "x" * 21]})
    for name, stored in (("area", "area"), ("status", "status.bytes")):
        whole = path.read_bytes()
        with h5py.File(path, "r+") as file, h5py.File(other) as source:
            del file[stored]
            source.copy(stored, file)
        for asked in (None, [name], [name, "box"]):
            with pytest.raises(StoreError, match=rf"t\.h5: {stored} is damaged or from another file.*glimpse repair"):
                read_table(path, "proposals", asked)
        rest = read_table(path, "proposals", [n for n in columns if n != name])
        np.testing.assert_array_equal(rest["box"], columns["box"])
        path.write_bytes(whole)
    read_table(path, "proposals")


def test_the_digest_of_a_table_is_that_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    table = write(path)
    assert table.digest == fingerprint(table.attrs["columns"]) == content_digest(path)
    assert set(table.attrs["columns"]) >= {"area", "box", "mask.bytes", "mask.offsets"}
    with h5py.File(path, "r+") as file:
        described = json.loads(file["description"][()].tobytes())
        described["digest"] = "0" * 64
        del file["description"]
        file["description"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    for read in (lambda: read_table(path, "proposals", ()), lambda: content_digest(path)):
        with pytest.raises(StoreError, match=r"t\.h5: its digest is not that of its columns"):
            read()


def test_the_digest_of_another_file_and_of_none(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert content_digest(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(StoreError, match="gone"):
        content_digest(tmp_path / "gone")
