"""Fingerprints of values, files and arrays, and of the code that a result depends on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from store import fingerprint
from store.computing import computing_digest

ROOT = Path(__file__).resolve().parents[2]

# --- values, files and arrays


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
    base = np.arange(6)
    others: list[NDArray[Any]] = [
        base.reshape(2, 3),
        base.astype(np.uint64),
        base[::-1],
        base[:0],
        base[:0].reshape(0, 2),
    ]
    digests = {fingerprint.array_digest(array) for array in (base, *others)}
    assert len(digests) == 1 + len(others)
    assert fingerprint.array_digest(np.repeat(base, 2)[::2]) == fingerprint.array_digest(base)


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


@pytest.mark.parametrize("module", ["stages.score", "stages.pair", "stages.embed_masks", "pipeline.cli"])
def test_closure_holds_all_that_python_imports(module: str) -> None:
    """The closure also knows imports inside functions, so it may be larger than what importing loads."""
    listing = f"import sys, {module}\nfor m in list(sys.modules.values()):\n    print(getattr(m, '__file__', None))"
    done = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True)
    own = [ROOT / package for package in fingerprint.PACKAGES]
    loaded = {Path(line) for line in done.stdout.split("\n") if any(p in Path(line).parents for p in own)}
    with_code = {path for path in loaded if path.read_text().strip()}
    assert ROOT.joinpath(*module.split(".")).with_suffix(".py") in with_code
    assert with_code <= set(fingerprint.import_closure(module))


# --- what of a source file computes

WORDED = """
import logging
from somewhere import nearest, useful

_REMEDY = f"do {nearest('x')}"
_LOG = logging.getLogger(__name__)


def _shown(value):
    return str(value)


def _opened(path, remedy, size=1):
    if not path:
        kind, reason = size + 1, f"{size} is too much"
        reason += " of it"
        raise ValueError(f"{kind}: {reason}; {remedy}")
    return useful(path, size)


def read(path: str, value) -> int:
    assert value, _shown(value)
    try:
        return _opened(path, _REMEDY)
    except OSError as error:
        _LOG.warning("no %s", path)
        return ValueError(f"{path}: {error}")
"""
SAID_OTHERWISE = [
    ("do {nearest('x')}", "try {nearest('y')}"),
    ("nearest, useful\n\n_REMEDY = f\"do {nearest('x')}\"", 'useful\n\n_REMEDY = "do it"'),
    ("return str(value)", "return repr(value)"),
    ("is too much", "is much"),
    (" of it", " of them"),
    ("{kind}: {reason}; {remedy}", "{reason}, {kind}, {remedy}"),
    (", _shown(value)", ", f'{_shown(value)} is odd'"),
    ("no %s", "not %s"),
    ('        _LOG.warning("no %s", path)\n', ""),
    ("{path}: {error}", "{error} {path}"),
    ("path: str, value) -> int", "path: bytes, value: float) -> bool"),
    ("size + 1, f", "size + 2, f"),
]
COMPUTES_OTHERWISE = [
    ("useful(path, size)", "useful(size, path)"),
    ("size=1", "size=2"),
    ("if not path", "if path"),
    ("raise ValueError(f\"{kind}", "raise KeyError(f\"{kind}"),
    ("except OSError", "except KeyError"),
    ("assert value", "assert not value"),
    ("import nearest, useful", "import nearest, usable as useful"),
    ("_opened(path, _REMEDY)", "_opened(path[1:], _REMEDY)"),
    ("_opened(path, _REMEDY)", "_opened(path, _REMEDY, 3)"),
    ("return ValueError", "return KeyError"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SAID_OTHERWISE)
def test_words_do_not_count(old: str, new: str) -> None:
    assert old in WORDED
    assert computing_digest(WORDED.replace(old, new).encode()) == computing_digest(WORDED.encode())


@pytest.mark.parametrize(("old", "new"), COMPUTES_OTHERWISE)
def test_what_computes_counts(old: str, new: str) -> None:
    assert old in WORDED
    assert computing_digest(WORDED.replace(old, new).encode()) != computing_digest(WORDED.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = f(1)", "x = f(2)"),  # public: another module may read it
        ("_x = f(1)\ny = _x", "_x = f(2)\ny = _x"),
        ("def f():\n    _ = g.send(1)\n", "def f():\n    _ = g.send(2)\n"),  # has an effect
        ("from a import b\n", "from c import b\n"),  # may be there for others to import
        ("class A:\n    x = 1\n", "class A:\n    x = 2\n"),
        ("class A:\n    x: int = 1\n", "class A:\n    x: float = 1\n"),  # pydantic converts
        ("@register\ndef _f(): pass\n", "def _f(): pass\n"),
        ("def f(x): return g(x, description='a')", "def f(x): return g(x, description='b')"),
        ("def _f(x): return 1\n_f(g())", "def _f(x): return 1\n_f(h())"),
    ],
)
def test_what_may_have_an_effect_counts(one: str, other: str) -> None:
    assert computing_digest(one.encode()) != computing_digest(other.encode())
