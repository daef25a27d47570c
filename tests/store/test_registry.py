"""Registries and the files outside the package that add to them."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from store.errors import ParameterError
from store.registry import Record, Registry, extensions_folder, load_extensions, record_digest


@dataclass(frozen=True, kw_only=True)
class Shape(Record):
    corners: int


SHAPES: Registry[Shape] = Registry("shape", room="rules")

TOY = """
from tests.store.test_registry import SHAPES, Shape

def area():
    return {area}

SHAPES.add(Shape(name="toy", module=__name__, corners={area}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "rules").mkdir()
    (tmp_path / "views").mkdir()
    yield tmp_path
    load_extensions(tmp_path / "none")
    SHAPES._records.clear()


def write(folder: Path, text: str, name: str = "rules/toy.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def shape(name: str, **values: Any) -> Shape:
    return Shape(**{"name": name, "module": __name__, "corners": 3, **values})


def test_records_stand_under_their_names_in_the_order_of_adding(folder: Path) -> None:
    for name in ("square", "circle", "triangle"):
        SHAPES.add(shape(name))
    assert list(SHAPES) == ["square", "circle", "triangle"]
    assert [record.name for record in SHAPES.values()] == list(SHAPES)
    assert "circle" in SHAPES
    assert "oval" not in SHAPES
    with pytest.raises(
        ParameterError, match=r"no shape 'sqare'; did you mean 'square'\? known: circle, square, triangle"
    ):
        SHAPES["sqare"]
    assert SHAPES.checked("circle") == "circle"
    with pytest.raises(ValueError, match=r"no shape 'sqare'; did you mean 'square'"):
        SHAPES.checked("sqare")


def test_a_name_belongs_to_one_module_which_may_add_it_again(folder: Path) -> None:
    SHAPES.add(shape("square"))
    SHAPES.add(shape("square", corners=4))
    assert SHAPES["square"].corners == 4
    with pytest.raises(ParameterError, match=r"shape 'square' is known already, tests\.store\.test_registry adds it"):
        SHAPES.add(shape("square", module="another"))
    assert SHAPES["square"].corners == 4


def test_an_extension_is_known_by_content(folder: Path) -> None:
    """Loaded once for each content; the file of another folder, or one that is gone, leaves nothing behind."""
    file = write(folder, TOY.format(area=7))
    assert load_extensions(folder)
    first = SHAPES["toy"]
    assert (first.corners, first.module, extensions_folder()) == (7, "glimpse_extensions.rules.toy", folder.resolve())
    assert not load_extensions(folder)
    assert SHAPES["toy"] is first
    write(folder, TOY.format(area=8))  # of the same size and, within a second, the same time
    load_extensions(folder)
    assert SHAPES["toy"].corners == 8
    function = sys.modules[SHAPES["toy"].module].area
    assert pickle.loads(pickle.dumps(function))() == 8
    file.unlink()
    load_extensions(folder)
    assert "toy" not in SHAPES
    with pytest.raises(ParameterError, match=f"none of that name is added in {folder.resolve()}/rules"):
        SHAPES["toy"]


def test_loading_leaves_no_file_behind(folder: Path) -> None:
    """DVC takes each folder as a dependency: bytecode in it would be a change."""
    write(folder, TOY.format(area=7))
    before = sorted(folder.rglob("*"))
    load_extensions(folder)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n\ny = 1 / 0\n", r":3: ZeroDivisionError: division by zero; correct the file, or move it out of"),
        ("\ndef f(:\n", r":2: SyntaxError"),
        ("import no_such_package\n", r":1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def f():\n    raise SystemExit(3)\n\nf()\n", r":2: SystemExit: 3"),
        ("import json\n\njson.loads('{')\n", r":3: JSONDecodeError"),
        ("x = 1\n", r":1: it adds nothing; build a record with module=__name__"),
        (TOY.format(area=7).replace('"toy"', '"square"'), r":7: ParameterError: shape 'square' is known already"),
        ("\x00", r":1: (SyntaxError|ValueError)"),
    ],
)
def test_a_faulty_file_is_one_error_with_its_line_and_adds_nothing(folder: Path, text: str, expected: str) -> None:
    SHAPES.add(shape("square"))
    write(folder, TOY.format(area=7), "rules/a_good_one.py")
    file = write(folder, text, "rules/faulty.py")
    for _ in range(2):  # not taken for loaded the second time
        with pytest.raises(ParameterError, match=f"^{file}{expected}"):
            load_extensions(folder)
    assert list(SHAPES) == ["square"]
    file.unlink()
    load_extensions(folder)
    assert list(SHAPES) == ["square", "toy"]


def test_a_file_in_the_room_of_something_else_is_refused(folder: Path) -> None:
    write(folder, TOY.format(area=7), "views/toy.py")
    with pytest.raises(
        ParameterError, match=r"views/toy\.py:7: .*shape 'toy' is added by a file of views/; move it to rules/"
    ):
        load_extensions(folder)


def test_the_digest_of_a_record_follows_its_file_and_what_that_imports(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(text: str) -> str:
        write(folder, text)
        load_extensions(folder)
        return record_digest(SHAPES["toy"])

    text = TOY.format(area=7)
    first = digest(text)
    write(folder, TOY.format(area=1).replace("toy", "other"), "rules/other.py")
    assert digest(text) == first, "another file does not count"
    assert digest(TOY.format(area=8)) != first
    importing = "import stages.proposals.boxes\n" + text
    assert digest(importing) not in (first, digest("import stages.proposals.items\n" + text))
    digests = digest(importing)
    monkeypatch.setattr("store.registry.code_digest", lambda module: f"changed {module}")
    assert digest(importing) != digests, "code of Glimpse that it imports counts"


def test_a_record_of_the_package_has_the_digest_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from store.fingerprint import code_digest

    assert record_digest(shape("x", module="stages.proposals.boxes")) == code_digest("stages.proposals.boxes")
