"""Small files that ask for much: refused in bounded time and memory, which the system enforces on a process of its own."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.params_file import DEEPEST, MOST_BYTES, MOST_VALUES, read_params
from store.errors import ParameterError
from tests.helpers.profile import ROOT

MEMORY, SECONDS = 1 << 30, 20
GUARDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
from pathlib import Path
from store.errors import GlimpseError
{imports}
try:
    {call}
except GlimpseError as error:
    sys.exit(f"refused: {{error}}")
print("read")
"""


def guarded(imports: str, call: str) -> str:
    """What a process with little memory and time says: "read", or the error of Glimpse; anything else fails the test."""
    code = GUARDED.format(memory=MEMORY, seconds=SECONDS, imports=imports, call=call)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), f"killed, or too little memory: {done.returncode} {done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return (done.stdout + done.stderr).strip()


def hash_bomb(place: Callable[[bytes], bytes]) -> bytes:
    pairs = b"N" + b"".join(b"2\x86" for _ in range(60))  # DUP, TUPLE2
    return b"\x80\x04" + place(pairs) + b"."


PICKLES = {
    "an index of 4 GiB": b"\x80\x02]r\xff\xff\xff\xff.",
    "an index of 2 GiB as text": b"(lp2147483647\n.",
    "an index of 10^300 as text": b"(lp" + b"9" * 300 + b"\n.",
    "a key that hashes for ever": hash_bomb(lambda key: b"}" + key + b"Ns"),
    "keys that hash for ever": hash_bomb(lambda key: b"}(" + key + b"Nu"),
    "a dict of them": hash_bomb(lambda key: b"(" + key + b"Nd"),
    "a set of them": hash_bomb(lambda key: b"\x8f(" + key + b"\x90"),
    "a frozenset of them": hash_bomb(lambda key: b"(" + key + b"\x91"),
    "set() of them": hash_bomb(lambda key: b"cbuiltins\nset\n(]" + key + b"atR"),
    "frozenset() of them": hash_bomb(lambda key: b"cbuiltins\nfrozenset\n(]" + key + b"atR"),
    "bytes of 2^40": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "text of 2^40": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "a bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "a frame of 2^40": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "a number of a million digits": b"(lI" + b"9" * 1_000_000 + b"\na.",
    "a number of 2^31 bytes": b"\x80\x02]\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\x01a.",
    "a scalar of 2^40 bytes": b"(lcnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'S1099511627776'\ntRS'abc'\ntRa.",
    "marks without end": b"(" * 1_000_000 + b".",
    "members for no list": b"\x80\x02}Na.",
    "entries for no dict": b"\x80\x02]NNs.",
    "a call of a value": b"\x80\x02]K\x01)R.",
    "attributes for a list": b"\x80\x02]}b.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_refs_file_that_asks_for_much_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "refs.p"
    file.write_bytes(PICKLES[name])
    said = guarded("from store.untrusted import load_refs", f"load_refs(Path({str(file)!r}))")
    expected = ("read",) if name.startswith("an index of") else ()  # a list, under an odd index
    assert said in expected or said.startswith(f"refused: {file}: "), said


def test_rows_that_hold_2_to_the_60_values_are_shown_shortly(tmp_path: Path) -> None:
    """They load, since they are few; no message may write them out."""
    laughs: list[object] = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    file = tmp_path / "refs.p"
    file.write_bytes(pickle.dumps([{"ref_id": laughs, "split": laughs, "sentences": laughs}]))
    said = guarded(
        "from store.untrusted import load_refs\nfrom stages.datasets.fields import shown",
        f"assert len(shown(load_refs(Path({str(file)!r}))[0]['split'])) < 100",
    )
    assert said == "read"


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
PARAMS = {
    "laughs": (LAUGHS.encode(), f"at most {MOST_VALUES:,} values"),
    "laughs in a list parameter": (
        b"ablations:\n  min_scores: &x [0.1]\n" + LAUGHS.encode(),
        "values with all aliases",
    ),
    "merged keys": (
        (
            "b0: &b0 {k: v}\n" + "".join(f"b{n}: &b{n} {{<<: *b{n - 1}, l{n}: *b{n - 1}}}\n" for n in range(1, 40))
        ).encode(),
        "values with all aliases",
    ),
    "itself": (b"a: &a [*a]\n", "stands inside of what it names"),
    "itself, deeper": (b"a: &a {b: {c: *a}}\n", "stands inside of what it names"),
    "depth in brackets": (b"a: " + b"[" * 100_000, f"at most {DEEPEST} levels"),
    "depth in braces": (b"a: " + b"{a: " * 100_000, f"at most {DEEPEST} levels"),
    "depth by indentation": (b"".join(b" " * n + b"a:\n" for n in range(200)), f"at most {DEEPEST} levels"),
    "too many values": (b"a: [" + b"1," * (MOST_VALUES + 1) + b"]", f"at most {MOST_VALUES:,} values"),
    "too many bytes": (b"a: " + b"x" * MOST_BYTES, "more than 1,048,576 bytes"),
    "a number of 5,000 digits": (b"a: " + b"9" * 5000, "none of its kind"),
    "a date that is none": (b"a: 2001-99-99", "none of its kind"),
    "UTF-16": ("a: größer".encode("utf-16"), "expected UTF-8"),
    "Latin-1": ("a: größer".encode("latin-1"), "expected UTF-8"),
    "an object": (b"a: !!python/object/apply:os.system ['touch x']", "not YAML"),
    "control codes": (b"a: \x1b[31m", "not YAML"),
    "no sections": (b"- a", "expected sections, got list"),
    "nothing": (b"", "expected sections, got NoneType"),
}


@pytest.mark.parametrize("name", PARAMS)
def test_a_params_file_that_asks_for_much_is_refused(tmp_path: Path, name: str) -> None:
    content, expected = PARAMS[name]
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    said = guarded("from pipeline.params_file import read_params", f"read_params(Path({str(file)!r}))")
    assert said.startswith(f"refused: {file}")
    assert expected in said
    assert len(said) < 1000


def test_a_params_file_with_usual_aliases_is_read(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("\ufeffa: &a {x: 1, y: [1, 2]}\nb: {<<: *a, y: 3}\nc: *a\n", encoding="utf-8")
    a = {"x": 1, "y": [1, 2]}
    assert read_params(file) == {"a": a, "b": {"x": 1, "y": 3}, "c": a}
    deep: dict[str, object] = {}
    for _ in range(DEEPEST - 1):
        deep = {"a": deep}
    file.write_text(yaml.safe_dump(deep))
    assert read_params(file) == deep
    file.write_text(yaml.safe_dump({"a": deep}))
    with pytest.raises(ParameterError, match="make it flatter"):
        read_params(file)
