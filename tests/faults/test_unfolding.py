"""Masks that unfold to much: refused before the memory is taken, which the system bounds in a process of its own."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from stages.datasets import parquet, phrases
from stages.datasets.parquet import rows
from stages.datasets.phrases import phrase_rows
from stages.heat_maps.imported import array_of
from stages.proposals.forms import given, label_maps
from stages.proposals.forms.arrays import _read
from stages.proposals.forms.given import lines, read_value
from stages.proposals.forms.known import recognised
from store import memory
from store.errors import DataError
from store.images import load_image
from store.memory import json_bytes, most_unfolded, require_memory
from tests.faults.test_bombs import MEMORY, guarded

GIB = 2**30


def packed(path: Path, pieces: Iterable[bytes]) -> Path:
    """The pieces as one gzip file, without holding them."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for piece in pieces:
            file.write(piece)
    return path


def repeated(start: bytes, piece: bytes, size: int, end: bytes = b"") -> Iterator[bytes]:
    yield start
    block = piece * (2**20 // len(piece))
    for _ in range(size // len(block)):
        yield block
    yield end


GZIPPED = {
    "blanks": lambda: repeated(b"[", b" ", 2 * GIB, b"]"),
    "a list": lambda: repeated(b"[0", b",0", 2 * GIB, b"]"),
    "one line": lambda: repeated(b'{"segmentation": "', b"x", 3 * GIB, b'"}'),
    "lines": lambda: repeated(b'{"image_id": 1}\n', b" " * 1023 + b"\n", 2 * GIB),
}


@pytest.mark.parametrize("name", GZIPPED)
def test_compressed_json_that_unfolds_to_gibibytes_is_refused(tmp_path: Path, name: str) -> None:
    file = packed(tmp_path / "masks.json.gz", GZIPPED[name]())
    assert file.stat().st_size < 20 * 2**20
    said = guarded(
        "from stages.proposals.forms.known import recognised",
        f"form, given = recognised(Path({str(file)!r}))\n    print(sum(1 for _ in form.rows(given, lambda x, _: x)))",
    )
    assert said.startswith("refused: "), said
    assert "unfold to more than" in said or "bytes of memory" in said or "at most 268,435,456 bytes" in said
    assert str(file) in said
    assert len(said) < 2_500


def test_values_are_counted_before_they_are_made(tmp_path: Path) -> None:
    """60 MiB of empty lists would be 1.4 GiB of objects."""
    file = tmp_path / "masks.json"
    file.write_bytes(b"[[]" + b",[]" * (20 * 2**20) + b"]")
    call = f"recognised(Path({str(file)!r}))"
    said = guarded("from stages.proposals.forms.known import recognised", call)
    assert "the values in it would take about" in said
    assert "write JSON Lines, a mask on each line" in said


@pytest.mark.parametrize(
    "value",
    [
        [[] for _ in range(2_000)],
        [{} for _ in range(2_000)],
        [{"a": n, "b": -n / 3} for n in range(1_000)],
        {str(n): str(n) for n in range(1_000)},
        [[10.5 * n, 2.25] for n in range(2_000)],
        ["\u00e4\u4e2d" * 10] * 500,
        {"a" * 5_000: "b" * 5_000},
    ],
)
def test_json_takes_no_more_than_it_is_said_to(value: Any) -> None:
    import tracemalloc

    text = json.dumps(value).encode()
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    for written in (text, compact):
        tracemalloc.start()
        read = json.loads(written)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert read == value
        assert peak <= json_bytes(written) + 10_000
        assert json_bytes(written) < 12 * peak


def test_usual_compressed_masks_are_read(tmp_path: Path) -> None:
    """Also those that shrink well: the least bound is 100 MiB."""
    row = {"image_id": 1, "score": 0.5, "segmentation": {"size": [6, 9], "counts": [0, 4, 50]}}
    file = packed(tmp_path / "masks.json.gz", [json.dumps([row] * 20_000).encode()])
    assert 100 * file.stat().st_size < len(gzip.decompress(file.read_bytes()))
    assert read_value(file) == [row] * 20_000
    file = packed(tmp_path / "masks.jsonl.gz", [json.dumps(row).encode() + b"\n"] * 20_000)
    assert sum(1 for _ in lines(file)) == 20_000


def test_a_line_has_a_greatest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "MOST_LINE", 40)
    file = tmp_path / "masks.jsonl"
    file.write_bytes(b"x" * 39 + b"\n")
    assert list(lines(file)) == [(1, b"x" * 39)]
    file.write_bytes(b"x" * 39 + b"\n" + b"y" * 40 + b"\n")
    with pytest.raises(DataError, match=r"masks\.jsonl: line 2: expected at most 40 bytes, .*; write JSON Lines"):
        list(lines(file))


def npy(claimed: tuple[int, ...], dtype: str = "|b1") -> bytes:
    """The header of an array of any shape, without its values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": claimed})
    return file.getvalue()


def zeros_npz(path: Path, claimed: tuple[int, ...], size: int) -> Path:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("masks.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(npy(claimed))
        for _ in range(size // 2**20):
            entry.write(bytes(2**20))
    return path


def test_an_archive_of_masks_larger_than_memory_is_refused(tmp_path: Path) -> None:
    file = zeros_npz(tmp_path / "one.npz", (2**11, 2**10, 2**10), 2 * GIB)
    said = guarded("from stages.proposals.forms.arrays import _read", f"_read(Path({str(file)!r}))")
    assert said.startswith("refused: masks (2048, 1024, 1024) of bool would take about 4,294,967,296 bytes of memory")
    assert f"half of the {MEMORY:,} there are; save fewer masks, or COCO's run lengths" in said


@pytest.mark.parametrize("shape", [(2**40, 2**20, 1), (1, 2**62, 3), (10, 20, 31)])
def test_an_array_that_claims_more_than_there_is_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = tmp_path / "one.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("masks.npy", npy(shape) + bytes(6_000))
    with pytest.raises(DataError, match=r"masks: bool .* are [\d,]+ bytes, the archive has [\d,]+: it is cut off"):
        _read(file)
    with pytest.raises(DataError, match=r"expected rows and columns, 1 to 1024 of each"):
        array_of(npy(shape, "<f4") + bytes(6_000))
    with pytest.raises(DataError, match="another number of bytes"):
        array_of(npy((1024, 1024), "<f4") + bytes(6_000))


def test_a_thousand_masks_of_an_archive_are_read(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((1_000, 30, 40)) < 0.5
    np.savez_compressed(tmp_path / "one.npz", masks=masks, scores=np.arange(1_000.0))
    found, scores = _read(tmp_path / "one.npz")
    np.testing.assert_array_equal(found, masks)
    assert scores == list(range(1_000))


def png(path: Path, width: int, height: int) -> Path:
    """A grey picture whose header says its size, without its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(("width", "height"), [(5_793, 5_793), (10_000, 10_000), (13_000, 13_000), (2**30, 2**30)])
def test_a_label_map_of_giant_size_is_refused(tmp_path: Path, width: int, height: int) -> None:
    """Also between the sizes at which Pillow warns (89 million pixels) and refuses (179 million): without that warning."""
    (tmp_path / "maps").mkdir()
    file = png(tmp_path / "maps/one.png", width, height)
    form, folder = recognised(tmp_path / "maps")
    (row,) = form.rows(folder, lambda files, _: files)
    assert "33,554,432 pixels" in row.fault or "exceeds limit" in row.fault, row
    with pytest.raises(DataError, match=r"one\.png") as refused:
        load_image(file)
    assert "33,554,432" in str(refused.value) or "exceeds limit" in str(refused.value)


def test_a_picture_is_no_label_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value is a mask of the whole size: as many as a picture's are no objects."""
    from PIL import Image

    monkeypatch.setattr(label_maps, "MOST_OBJECTS", 50)
    (tmp_path / "maps").mkdir()
    for count, name in ((50, "few"), (51, "many")):
        Image.fromarray(np.arange(count, dtype=np.uint8)[None].repeat(4, 0)).save(tmp_path / f"maps/{name}.png")
    form, folder = recognised(tmp_path / "maps")
    rows = list(form.rows(folder, lambda files, _: files))
    assert sum(not row.fault for row in rows) == 49
    assert rows[-1].fault == "expected numbers of at most 50 objects, got 51: is it a picture?"


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_parquet_that_unfolds_to_gibibytes_is_refused(tmp_path: Path, compression: str) -> None:
    file = tmp_path / "val-0.parquet"
    table = pyarrow.table({"image": [bytes(2**28)] * 2, "other": [1, 2]})
    pyarrow.parquet.write_table(table, file, compression=compression, use_dictionary=False)
    assert file.stat().st_size < 2**21
    with pytest.raises(
        DataError, match=r"val-0\.parquet: its [\d,]+ bytes unfold to 536,[\d,]+, more than 100 times as many"
    ):
        list(rows([file], ["image"]))
    assert [row for _, row in rows([file], ["other"])] == [{"other": 1}, {"other": 2}], (
        "what is not read does not count"
    )


def test_parquet_of_one_large_value_in_all_rows_is_read_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary of one value of 3 MB, 500 rows: 1.5 GB of values, 96 MB for 32 rows."""
    file = tmp_path / "val-0.parquet"
    value = np.random.default_rng(0).bytes(3_000_000)
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 500), pyarrow.array([value]))
    pyarrow.parquet.write_table(pyarrow.table({"image": column}), file, dictionary_pagesize_limit=2**30)
    assert file.stat().st_size < 4_000_000
    monkeypatch.setattr(parquet, "memory_of_machine", lambda: 16_000_000)
    batches: list[int] = []
    checked = parquet._checked
    monkeypatch.setattr(parquet, "_checked", lambda *given: (batches.append(given[-1]), checked(*given))[1])
    found = rows([file], ["image"])
    assert next(found)[1] == {"image": value}
    assert batches == [2]
    monkeypatch.setattr(memory, "_LITTLE", 0)
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 4_000_000)
    with pytest.raises(DataError, match="a group of its rows would take about 3,"):
        next(rows([file], ["image"]))


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
def test_a_table_of_phrases_has_a_greatest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(phrases, "MOST_BYTES", 100)
    file = tmp_path / f"phrases.{form}"
    file.write_bytes(b"x" * 101)
    with pytest.raises(DataError, match=r"it has more than 100 bytes\); divide it"):
        phrase_rows(file)


def test_an_endless_line_of_phrases_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "phrases.csv"
    file.write_bytes(b"image,phrase\na.png," + b"x" * 2_000_000)
    with pytest.raises(DataError, match="field larger than field limit"):
        phrase_rows(file)


def test_depth_is_refused(tmp_path: Path) -> None:
    for start in (b"[", b'{"a":'):
        file = packed(tmp_path / "masks.json.gz", [start * 200_000])
        with pytest.raises(DataError, match="expected masks in a known form"):
            recognised(file)


def test_half_of_the_memory_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 2 * GIB)
    require_memory(GIB, "it", "x")
    with pytest.raises(DataError, match="it would take about 1,073,741,825 bytes of memory, more than half of the"):
        require_memory(GIB + 1, "it", "x")
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 0)
    require_memory(2**60, "it", "x")  # it is not known how much there is
    assert most_unfolded(10) == 100 * 2**20
    assert most_unfolded(GIB) == 100 * GIB


def test_a_limit_of_the_shell_counts() -> None:
    said = guarded("from store.memory import memory_of_machine", "print(memory_of_machine())")
    assert said.split()[0] == str(MEMORY)
