"""Weights files that were made to do harm: nothing of them runs, and none costs more memory than its size allows."""

from __future__ import annotations

import os
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.clip.state_dict import read_state_dict
from store.errors import WeightsError
from tests.helpers.weights_files import STATE, arrays, assert_ours, save_pickle, save_torch


def zip_of(pickled: bytes, numbers: dict[str, bytes], path: Path, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("w/data.pkl", pickled)
        for key, data in numbers.items():
            archive.writestr(f"w/data/{key}", data)
    return path


def tensor_pickle(
    length: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, names: int = 1
) -> bytes:
    """The pickle of {"a0": a tensor, ...}, all windows on one storage."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(length) + b"tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + number(offset) + numbers(size) + numbers(stride) + b"\x89}tR"
    )
    return b"\x80\x02}(" + b"".join(text(f"a{n}") + tensor for n in range(names)) + b"u."


@pytest.mark.parametrize(
    ("size", "stride", "offset", "said"),
    [
        ((1 << 40,), (0,), 0, "on a storage of 4 numbers"),
        ((1 << 20, 1 << 20), (0, 0), 0, "on a storage of 4 numbers"),
        ((5,), (1,), 0, "on a storage of 4 numbers"),
        ((2,), (4,), 0, "on a storage of 4 numbers"),
        ((1,), (1,), 4, "on a storage of 4 numbers"),
        ((-1,), (1,), 0, "a shape of an unknown form"),
        ((4,), (-1,), 3, "a shape of an unknown form"),
        ((4,), (1, 1), 0, "a tensor of an unknown form"),
        ((1,), (1,), -1, "a tensor of an unknown form"),
        ((1,) * 40, (1,) * 40, 0, "a shape of an unknown form"),
    ],
)
def test_windows_that_are_larger_than_their_numbers(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int, said: str, tmp_path: Path
) -> None:
    zip_of(tensor_pickle(4, size, stride, offset), {"0": b"\0" * 16}, tmp_path / "w")
    with pytest.raises(WeightsError, match=said):
        read_state_dict(tmp_path / "w")


def test_numbers_that_unfold(tmp_path: Path) -> None:
    count = 1 << 20
    numbers = {"0": b"\0" * 4 * count}
    zip_of(tensor_pickle(count, (count,), (1,)), numbers, tmp_path / "w", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"tensors of more than 4 times the bytes|compressed"):
        read_state_dict(tmp_path / "w")
    zip_of(tensor_pickle(count, (count,), (1,), names=9), numbers, tmp_path / "v")
    with pytest.raises(WeightsError, match="tensors of more than 4 times the bytes"):
        read_state_dict(tmp_path / "v")
    zip_of(tensor_pickle(8, (8,), (1,)), {"0": b"\0" * 16}, tmp_path / "u")
    with pytest.raises(WeightsError, match="another size than its tensors"):
        read_state_dict(tmp_path / "u")


NESTED = b"K\x01" + b"q\x00h\x00\x86" * 40
BOMBS: dict[str, bytes] = {
    "a memo of 4 GB": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "bytes of 2**40": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "a bytearray of 2**40": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a key that hashes for ever": b"\x80\x02}" + NESTED + b"Ns.",
    "such keys": b"\x80\x02}(" + NESTED + b"Nu.",
    "such keys of an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n((" + NESTED + b"N\x86ltR.",
    "such a set": b"\x80\x04\x8f(" + NESTED + b"\x90.",
    "an array of 2**40 bytes": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    + b"(K\x01K\x04\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R\x89\x8a\x06"
    + (1 << 40).to_bytes(6, "little")
    + b"tb.",
    "another such array": b"\x80\x05cnumpy._core.numeric\n_frombuffer\n(\x8a\x06"
    + (1 << 40).to_bytes(6, "little")
    + b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87RK\x04\x85U\x01CtR.",
    "a number of a million digits": b"\x80\x02I" + b"9" * 1_000_000 + b"\n.",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("zipped_up", [True, False])
def test_bombs_cost_nothing(bomb: str, zipped_up: bool, tmp_path: Path) -> None:
    path = tmp_path / "w"
    if zipped_up:
        zip_of(BOMBS[bomb], {}, path)
    else:
        path.write_bytes(BOMBS[bomb])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as error:
        read_state_dict(path)
    assert_ours(error.value, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_pickle_that_unfolds_and_numbers_named_twice(tmp_path: Path) -> None:
    path = zip_of(b"\x80\x02" + b"]" * (1 << 24) + b".", {}, tmp_path / "w", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="or a compressed one"):
        read_state_dict(path)
    zip_of(tensor_pickle(1 << 24, (1,), (1,)), {"0": b""}, tmp_path / "v")
    with pytest.raises(WeightsError, match="more numbers than bytes in the file"):
        read_state_dict(tmp_path / "v")


def test_an_archive_without_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("data.pkl", tensor_pickle(2, (2,), (1,)))
        archive.writestr("data/0", np.array([1, 2], "<f4").tobytes())
    assert read_state_dict(tmp_path / "w")["a0"].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "x" * 301])
def test_names_that_a_terminal_should_not_show(name: str, tmp_path: Path) -> None:
    save_torch({name: torch.ones(1)}, tmp_path / "w")
    (tmp_path / "v").write_bytes(b"\x80\x04\x8c\x02os\x8c\x03a\x1bb\x93.")
    for file in ("w", "v"):
        with pytest.raises(WeightsError) as error:
            read_state_dict(tmp_path / file)
        assert str(error.value).isprintable()
        assert_ours(error.value, tmp_path / file)


def test_modules_that_hold_each_other(tmp_path: Path) -> None:
    """40 modules, each of which holds the next twice: a walk would take 2**40 steps."""
    module = b"c__torch__\nM\n)\x81"
    code = b"\x80\x02" + module + b"q\x00"
    for _ in range(40):
        code += b"0" + module + b"}(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00ubq\x00"
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("w/constants.pkl", b"")
        archive.writestr("w/data.pkl", code + b".")
    with pytest.raises(WeightsError, match="entries in its modules"):
        read_state_dict(tmp_path / "w")


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["new", "old", "pickle"])
def test_nothing_of_a_file_runs(form: str, tmp_path: Path) -> None:
    content = {"state_dict": STATE, "args": Runs(tmp_path / "ran")}
    path = tmp_path / "w"
    if form == "pickle":
        save_pickle({"model": arrays(STATE), "args": Runs(tmp_path / "ran")}, path)
    else:
        save_torch(content, path, old=form == "old")
    with pytest.raises(WeightsError, match=r"refused the name (posix|nt)\.mkdir; .*could run code") as error:
        read_state_dict(path)
    assert_ours(error.value, path)
    assert not (tmp_path / "ran").exists()
