"""Documents of numbers: what differs between two, and when a file can stay as it is."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from store.agreement import TOLERANCE, agrees_with, disagreements
from store.document import content_of, write_document

DOCUMENT: dict[str, Any] = {
    "toy": {"val": {"miou": 0.123457, "ci": [0.1, 0.2], "n": 7, "p50": None}},
    "run": {
        "date": "Monday",
        "commit": "abc",
        "pairs": "d1",
        "encoder": {"weights": "w"},
        "values": {"score": {"alpha": 0.5}, "parse": {"code": "c1", "libraries": {"spacy": "3.8"}}},
    },
}


STAGE = "score"


def write(file: Path, document: dict[str, Any]) -> None:
    write_document(file, content_of(document), STAGE, document["run"])


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """``DOCUMENT`` with the value at ``path`` replaced."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return document


def test_sums_in_another_order_agree_and_one_other_choice_does_not() -> None:
    numbers = [random.Random(seed).random() for seed in range(20_000)]
    first, second = (sum(order) / len(order) for order in (numbers, sorted(numbers)))
    assert first != second
    assert disagreements({"miou": [first]}, {"miou": [second]}) == []
    other = sum([*numbers[:-1], numbers[-1] - 0.1]) / len(numbers)
    assert disagreements({"miou": [first]}, {"miou": [other]}) != []


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("toy", "val", "miou"), 0.123460, "toy.val.miou: 0.123457 and 0.12346"),
        (("toy", "val", "ci"), [0.1], "toy.val.ci.1: 0.2 and nothing"),
        (("toy", "val", "ci", 0), None, "toy.val.ci.0: 0.1 and None"),
        (("toy", "val", "n"), 8, "toy.val.n: 7 and 8"),
        (("toy", "val", "p50"), 0.0, "toy.val.p50: None and 0.0"),
        (("toy", "testA"), {"miou": 1.0}, "toy.testA.miou: nothing and 1.0"),
        (("toy", "val", "miou"), float("nan"), "toy.val.miou: 0.123457 and nan"),
        (("toy", "val", "p50"), True, "toy.val.p50: None and True"),
    ],
)
def test_every_kind_of_difference_is_named_and_the_file_written_anew(
    tmp_path: Path, path: tuple[Any, ...], value: Any, where: str
) -> None:
    other = changed(*path, to=value)
    assert disagreements(DOCUMENT, other) == [where]
    file = tmp_path / "metrics.json"
    write(file, DOCUMENT)
    assert not agrees_with(file, STAGE, other)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("toy", "val", "miou"), 0.1234575),
        (("run", "date"), "Tuesday"),
        (("run", "commit"), "def"),
        (("run", "pairs"), "d2"),
        (("run", "values", "parse", "code"), "c2"),
        (("run", "values", "parse", "libraries", "spacy"), "3.9"),
    ],
)
def test_a_last_digit_another_date_or_other_code_is_no_difference(
    tmp_path: Path, path: tuple[str, ...], value: Any
) -> None:
    file = tmp_path / "metrics.json"
    write(file, DOCUMENT)
    assert agrees_with(file, STAGE, changed(*path, to=value))
    assert disagreements(DOCUMENT, changed(*path, to=value)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("run", "values", "score", "alpha"), 0.6),
        (("run", "values", "parse", "spacy_model"), "lg"),
        (("run", "encoder", "weights"), "other"),
    ],
)
def test_equal_numbers_of_other_values_are_written_anew(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    file = tmp_path / "metrics.json"
    write(file, DOCUMENT)
    assert not agrees_with(file, STAGE, changed(*path, to=value))


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe{}"])
def test_no_file_and_a_damaged_one_say_nothing(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "metrics.json"
    if content is not None:
        file.write_bytes(content)
    assert not agrees_with(file, STAGE, DOCUMENT)


@pytest.mark.parametrize(("share", "agree"), [(0.9, True), (1.1, False)])
def test_the_tolerance_is_that_of_differences(share: float, agree: bool) -> None:
    assert (disagreements({"a": 0.0}, {"a": -share * TOLERANCE}) == []) is agree


def test_a_file_whose_digest_does_not_fit_is_written_anew(tmp_path: Path) -> None:
    """A last digit that was edited is within the tolerance; but its readers would refuse the file for good."""
    file = tmp_path / "metrics.json"
    write(file, DOCUMENT)
    file.write_text(file.read_text().replace("0.123457", "0.123458"))
    assert not agrees_with(file, STAGE, DOCUMENT)
