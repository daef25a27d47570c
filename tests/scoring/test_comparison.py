"""The paired bootstrap against a plain loop over drawn images, and what must hold of any comparison."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.scoring import metrics
from stages.scoring.comparison import (
    COMPARED,
    Both,
    breakdown,
    by_length,
    by_size,
    by_words,
    compared,
    flips,
    two_sided_p,
    versus,
)
from stages.scoring.metrics import Outcome, bootstrap, outcome_of_choice

Row = tuple[int, tuple[int, int], tuple[int, int]]
"""The image of an expression, and intersection and union of A's and of B's choice."""
counts = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda two: (two[0], two[0] + two[1]))
cases = st.lists(st.tuples(st.integers(0, 6), counts, counts), min_size=1, max_size=25)


def outcome(pairs: list[tuple[int, int]]) -> Outcome:
    """Of choices with these intersections and unions."""
    inter, union = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    offsets = np.arange(len(pairs) + 1)
    return outcome_of_choice(np.zeros(len(pairs), np.int64), offsets, inter, union, union)


def both(rows: list[Row]) -> Both:
    image = np.array([row[0] for row in rows], np.int64)
    return Both(outcome([row[1] for row in rows]), outcome([row[2] for row in rows]), image)


def plain_values(pairs: list[tuple[int, int]]) -> dict[str, float]:
    ious = [i / u if u else 0.0 for i, u in pairs]
    union = sum(u for _, u in pairs)
    return {
        "oiou": sum(i for i, _ in pairs) / union if union else 0.0,
        "miou": math.fsum(ious) / len(ious),
        "p50": sum(iou > 0.5 for iou in ious) / len(ious),
    }


def plain_percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def plain_compared(rows: list[Row], resamples: int, seed: int) -> dict[str, Any]:
    """Image by image and expression by expression."""
    images = sorted({image for image, _, _ in rows})
    rng = np.random.default_rng(seed)
    differences: dict[str, list[float]] = {name: [] for name in COMPARED}
    for _ in range(resamples):
        first, second = [], []
        for drawn in rng.integers(0, len(images), len(images), dtype=np.int32):
            for image, a, b in rows:
                if image == images[drawn]:
                    first.append(a)
                    second.append(b)
        a, b = plain_values(first), plain_values(second)
        for name in COMPARED:
            differences[name].append(a[name] - b[name])
    a, b = plain_values([row[1] for row in rows]), plain_values([row[2] for row in rows])
    found: dict[str, Any] = {"n": len(rows), "images": len(images)}
    for name, values in differences.items():
        rounded = [0.0 if abs(value) < 1e-12 else value for value in values]
        rarer = min(sum(value <= 0 for value in rounded), sum(value >= 0 for value in rounded))
        found[name] = {
            "a": a[name],
            "b": b[name],
            "difference": a[name] - b[name],
        }
        if len(images) == 1:
            continue
        found[name] |= {
            "ci": [plain_percentile(values, 0.025), plain_percentile(values, 0.975)],
            "p": min(1.0, max(2 * (1 + rarer) / (resamples + 1), 2 / 2 ** len(images))),
        }
    return found


@settings(max_examples=40)
@given(cases, st.integers(0, 5))
def test_the_paired_bootstrap_is_a_loop_over_drawn_images(rows: list[Row], seed: int) -> None:
    found, expected = compared(both(rows), 40, seed), plain_compared(rows, 40, seed)
    assert found["n"] == expected["n"]
    for name in COMPARED:
        assert set(found[name]) == set(expected[name])
        for key, value in expected[name].items():
            if key != "p":
                assert found[name][key] == pytest.approx(value, rel=1e-9, abs=1e-9), (name, key)
    assert found["p50"].get("p") == pytest.approx(expected["p50"].get("p"))


def test_p_of_a_loop_over_drawn_images() -> None:
    """Of rows without ties, where rounding decides nothing."""
    rng = np.random.default_rng(3)
    rows = []
    for row in range(60):
        a, b = sorted(rng.integers(1, 1000, 2).tolist())
        pair = [(int(a), 1009), (int(b), 1013)]
        rows.append((row // 3, *(pair if rng.random() < 0.4 else pair[::-1])))
    found, expected = compared(both(rows), 200, 1), plain_compared(rows, 200, 1)
    for name in COMPARED:
        assert found[name]["p"] == pytest.approx(expected[name]["p"]), name
    assert 0 < found["miou"]["p"] < 1
    short = versus(both(rows), 200, 1)
    assert short == {
        "miou": pytest.approx(found["miou"]["difference"], abs=1e-12),
        "miou_ci": found["miou"]["ci"],
        "p": found["miou"]["p"],
    }


@given(cases)
def test_the_same_choices_differ_by_nothing(rows: list[Row]) -> None:
    same = compared(both([(image, a, a) for image, a, _ in rows]), 30, 0)
    for name in COMPARED:
        assert same[name]["difference"] == 0
        assert same[name].get("ci") == ([0, 0] if same["images"] > 1 else None)
        assert same[name].get("p") == (1 if same["images"] > 1 else None)


@given(cases)
def test_swapping_turns_the_sign(rows: list[Row]) -> None:
    ab, ba = (compared(both(r), 50, 2) for r in (rows, [(image, b, a) for image, a, b in rows]))
    for name in COMPARED:
        assert ab[name]["difference"] == -ba[name]["difference"]
        if ab["images"] > 1:
            assert ab[name]["ci"] == pytest.approx([-end for end in ba[name]["ci"][::-1]], abs=1e-12)
            assert ab[name]["p"] == ba[name]["p"]
        assert (ab[name]["a"], ab[name]["b"]) == (ba[name]["b"], ba[name]["a"])
    gained, lost = flips(both(rows))
    back = flips(both([(image, b, a) for image, a, b in rows]))
    assert (gained.tolist(), lost.tolist()) == (back[1].tolist(), back[0].tolist())


@given(cases, st.randoms(use_true_random=False))
def test_the_order_of_expressions_and_images_does_not_matter(rows: list[Row], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    assert compared(both(rows), 40, 4) == compared(both(shuffled), 40, 4)
    renamed = [(10 * image + 3, a, b) for image, a, b in shuffled]
    assert compared(both(rows), 40, 4) == compared(both(renamed), 40, 4)


def test_a_pair_is_told_apart_where_two_intervals_overlap() -> None:
    """The point of pairing: images differ by far more than the rules do."""
    rng = np.random.default_rng(0)
    rows: list[Row] = [(e, (int(n), 1000), (int(n) - 10, 1000)) for e, n in enumerate(rng.integers(10, 1000, 100))]
    two = both(rows)
    a, b = (bootstrap(side, two.image, 500, 0)["miou_ci"] for side in (two.a, two.b))
    assert a[0] < b[1]
    found = compared(two, 500, 0)["miou"]
    assert found["ci"] == pytest.approx([0.01, 0.01])
    assert found["p"] == pytest.approx(2 / 501)


def test_blocks_draw_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows: list[Row] = [
        (int(rng.integers(40)), (int(rng.integers(50)), 50), (int(rng.integers(50)), 50)) for _ in range(90)
    ]
    whole = compared(both(rows), 100, 6)
    monkeypatch.setattr(metrics, "_KEPT", 1000)
    assert compared(both(rows), 100, 6) == whole


def test_nothing_to_draw() -> None:
    empty = compared(both([]), 10, 0)
    assert empty == {"n": 0, "images": 0, **{name: {"a": None, "b": None, "difference": None} for name in COMPARED}}
    assert versus(both([]), 10, 0) == {}
    rows: list[Row] = [(0, (1, 2), (1, 4))]
    assert compared(both(rows), 0, 0)["miou"] == {"a": 0.5, "b": 0.25, "difference": 0.25}
    assert versus(both(rows), 0, 0) == {}
    assert two_sided_p(np.zeros(0), 10) == 1


def test_few_images_are_little_evidence() -> None:
    """Every resample of images that all agree agrees, too; the exact test by signs says how little that is."""
    for images in range(1, 12):
        rows: list[Row] = [(image, (7, 8), (1, 8)) for image in range(images) for _ in range(50)]
        found = compared(both(rows), 999, 0)
        assert found["images"] == images
        if images == 1:
            assert found["miou"] == {"a": 0.875, "b": 0.125, "difference": 0.75}
            assert versus(both(rows), 999, 0) == {}
        else:
            alike = sum(abs(sum(signs)) == images for signs in itertools.product((-1, 1), repeat=images))
            assert found["miou"]["p"] == versus(both(rows), 999, 0)["p"] == max(alike / 2**images, 0.002)


def test_expressions_without_a_choice_are_left_out_of_both() -> None:
    some = outcome_of_choice(
        np.array([0, -1]), np.array([0, 1, 2]), np.array([1, 1]), np.array([2, 2]), np.array([2, 2])
    )
    other = outcome_of_choice(
        np.array([0, 0]), np.array([0, 1, 2]), np.array([1, 1]), np.array([4, 2]), np.array([2, 2])
    )
    two = Both(some, other, np.array([0, 1]))
    assert compared(two.counted("count"), 0, 0)["miou"]["difference"] == pytest.approx(0.25 - 0.375)
    assert compared(two.counted("skip"), 0, 0)["miou"]["difference"] == 0.25


def test_flips_need_more_than_one_half() -> None:
    gained, lost = flips(both([(0, (1, 2), (2, 2)), (0, (2, 3), (1, 2)), (1, (2, 3), (3, 4)), (1, (0, 0), (1, 2))]))
    assert (gained.tolist(), lost.tolist()) == ([1], [0])


@given(cases, st.lists(st.sampled_from("abc"), min_size=25, max_size=25))
def test_a_class_is_compared_as_if_it_were_alone(rows: list[Row], names: list[str]) -> None:
    classes = {name: np.flatnonzero(np.array(names[: len(rows)]) == name) for name in sorted(set(names[: len(rows)]))}
    for line in breakdown(both(rows), classes, 20, 1):
        own = [row for row, name in zip(rows, names, strict=False) if name == line["value"]]
        expected = compared(both(own), 20, 1)
        assert line == {"value": line["value"], "n": len(own), **expected["miou"]}


@given(st.lists(st.floats(0, 1), max_size=40))
def test_sizes_are_terciles(shares: list[float]) -> None:
    found = by_size(np.array(shares))
    rows = [row for members in found.values() for row in members.tolist()]
    assert sorted(rows) == list(range(len(shares)))
    ordered = [[shares[row] for row in members] for members in found.values()]
    for smaller, larger in itertools.pairwise(ordered):
        assert max(smaller) <= min(larger)
    if len(set(shares)) == len(shares) >= 3:
        sizes = [len(members) for members in found.values()]
        assert len(sizes) == 3
        assert max(sizes) - min(sizes) <= 1


def test_classes_of_sentences() -> None:
    found = by_length(["one", "", "a b c d e", " ".join("a" * 9), " ".join("a" * 12)])
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "1-2 words": [0],
        "3-5 words": [2],
        "6-9 words": [3],
        "10 words or more": [4],
    }
    lists = [json.dumps(words) for words in (["Left", "left"], [], ["none"], ["top", "left"])]
    words = by_words(lists)
    assert {name: rows.tolist() for name, rows in words.items()} == {
        "none": [1],
        "any": [0, 2, 3],
        "left": [0, 3],
        "“none”": [2],
        "top": [3],
    }
