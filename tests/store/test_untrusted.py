"""The safe pickle reader: plain values of any protocol, and nothing else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import DataError
from store.untrusted import load_refs
from tests.helpers.refer_files import python2_pickle


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


PLAIN = [
    {
        "ref_id": 7,
        "sentences": [{"raw": "café", "tokens": ["café"]}],
        "box": (1.5, None, True),
        "big": 2**80,
        "none": b"",
    }
]


@pytest.mark.parametrize("protocol", range(6))
def test_python3_pickles(tmp_path: Path, protocol: int) -> None:
    rows = [*PLAIN, {"a": {1, 2}, "b": frozenset("x"), "c": b"\xff\x00", "d": -1.25e300, "e": []}]
    assert load_refs(_write(tmp_path / "refs.p", pickle.dumps(rows, protocol))) == rows


@pytest.mark.parametrize("encoding", ["utf-8", "latin1"])
@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python2_pickles(tmp_path: Path, protocol: int, encoding: str) -> None:
    rows = [{"ref_id": 7, "split": "val", "sentences": [{"raw": "café 'quoted'\n", "tokens": ["x" * 300]}]}] * 2
    python2_pickle(rows, protocol, encoding, tmp_path / "refs.p")
    assert load_refs(tmp_path / "refs.p") == rows


def test_python2_pickles_byte_by_byte(tmp_path: Path) -> None:
    """Written by hand, after the format's description: a str, a unicode, an int, a bool, a long, a float."""
    text = b"(lp0\n(dp1\nS'ref_id'\np2\nI7\nsS'raw'\np3\nVcaf\\u00e9\np4\nsS'ok'\nI01\nsS'n'\nL12345678901L\nsS'f'\nF0.5\nsa."
    assert load_refs(_write(tmp_path / "0.p", text)) == [
        {"ref_id": 7, "raw": "café", "ok": True, "n": 12345678901, "f": 0.5}
    ]
    binary = b"\x80\x02]q\x01}q\x02(U\x06ref_idq\x03K\x07U\x03rawq\x04X\x05\x00\x00\x00caf\xc3\xa9q\x05ua."
    assert load_refs(_write(tmp_path / "2.p", binary)) == [{"ref_id": 7, "raw": "café"}]


_SCALARS: list[Any] = [
    np.int64(-5),
    np.uint8(200),
    np.float32(2.5),
    np.float64(0.1),
    np.bool_(True),
    np.str_("é"),
    np.bytes_(b"ab"),
    np.array(513, ">i4")[()],
]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_numpy_scalars_become_plain_values(tmp_path: Path, protocol: int) -> None:
    (row,) = load_refs(_write(tmp_path / "refs.p", pickle.dumps([_SCALARS], protocol)))
    assert row == [scalar.item() for scalar in _SCALARS]
    assert [type(value) for value in row] == [int, int, float, float, bool, str, bytes, int]


@pytest.mark.parametrize("number", [5, 200, 2**31 - 1, -2, 43459])  # 43459 = bytes c3 a9, which are UTF-8
def test_numpy_scalars_of_python2(tmp_path: Path, number: int) -> None:
    """Old module name, byte strings for the type code and the number."""
    data = (
        b"\x80\x02]cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02i4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x04"
        + number.to_bytes(4, "little", signed=True)
        + b"\x86Ra."
    )
    assert load_refs(_write(tmp_path / "refs.p", data)) == [number]


class _Runs:
    """What a hostile pickle looks like."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    hostile: dict[str, Any] = {
        rf"{os.system.__module__}\.system": _Runs(os.system, f"touch {marker}"),
        r"eval": _Runs(eval, f"open({str(marker)!r}, 'w')"),
        r"getattr": _Runs(getattr, "a", "upper"),
        r"multiarray\._reconstruct|_frombuffer": np.zeros(3),
        r"PosixPath|WindowsPath": tmp_path,
        r"complex": 1j,
    }
    for name, value in hostile.items():
        path = _write(tmp_path / "refs(unc).p", pickle.dumps([{"ref_id": 1, "x": value}], protocol))
        with pytest.raises(DataError, match=rf"(?s)refs\(unc\)\.p.*({name}).*refused.*fetch the file again"):
            load_refs(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"c_codecs\nencode\n(dS'x'\nI1\nsb.",  # state for what was admitted as a function
        b"cnumpy.core.multiarray\nscalar\n(dS'_encoding'\nS'x'\nsb.",
        b"cnumpy\ndtype\n(NdS'x'\nI1\nstb.",
        b"cbuiltins\nset\n(dS'x'\nI1\nsb.",
        b"(lcnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'abcdefgh'\ntRa.",  # an object pointer
        b"(lcnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\ntRS'abc'\ntRa.",  # too few bytes
        b"(lc__builtin__\nbytes\n(I1000000000000\ntRa.",
        b"\x80\x02P1\n.",
    ],
)
def test_admitted_names_cannot_be_abused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"refs\.p"):
        load_refs(_write(tmp_path / "refs.p", data))
    test_numpy_scalars_become_plain_values(tmp_path, 2)


@pytest.mark.parametrize("data", [b"", b"\n", b"hello world", b"{}", b"PK\x03\x04", b"\x80\xff", b".", b"\x80\x04."])
def test_no_pickle(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"refs\.p.*fetch the file again"):
        load_refs(_write(tmp_path / "refs.p", data))


@pytest.mark.parametrize("value", [{"a": 1}, "abc", None, (1,)])
def test_not_a_list(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match="expected a list of refs, got"):
        load_refs(_write(tmp_path / "refs.p", pickle.dumps(value)))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.p", tmp_path):
        with pytest.raises(DataError, match="cannot read it"):
            load_refs(path)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([0, 2, 4]), st.floats(0, 1, exclude_max=True))
def test_truncated_anywhere(tmp_path_factory: pytest.TempPathFactory, protocol: int, share: float) -> None:
    data = pickle.dumps([*PLAIN, [np.float32(1)]], protocol)
    path = tmp_path_factory.getbasetemp() / "truncated.p"
    with pytest.raises(DataError):
        load_refs(_write(path, data[: int(len(data) * share)]))
