"""Metrics against plain loops over dense masks, in exact fractions (reference.md sec. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.scoring.fusion import first_best
from stages.scoring.metrics import (
    Empty,
    Outcome,
    bootstrap,
    iou_of,
    outcome_of_choice,
    outcome_of_random,
    ratios,
    summarise,
)
from store.errors import DataError
from store.ragged import offsets_of

Mask = list[list[bool]]
NAMES = ("oiou", "miou", "p50", "p70", "p90")
LIMITS = {"p50": Fraction(1, 2), "p70": Fraction(7, 10), "p90": Fraction(9, 10)}


@dataclass(frozen=True)
class Case:
    """Expressions, each with a dense ground truth and dense proposals; ``chosen`` -1 for those without any."""

    truths: list[Mask]
    proposals: list[list[Mask]]
    chosen: list[int]

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """What the functions under test take."""
        pairs = [
            counts(mask, truth) for truth, masks in zip(self.truths, self.proposals, strict=True) for mask in masks
        ]
        return {
            "offsets": offsets_of(len(masks) for masks in self.proposals),
            "intersection": np.array([i for i, _ in pairs], np.int64),
            "union": np.array([u for _, u in pairs], np.int64),
            "area": np.array([sum(map(sum, truth)) for truth in self.truths], np.int64),
        }

    def outcome(self) -> Outcome:
        return outcome_of_choice(np.array(self.chosen, np.int64), **self.arrays())


def counts(mask: Mask, truth: Mask) -> tuple[int, int]:
    """Intersection and union in pixels, pixel by pixel."""
    inter = union = 0
    for mask_row, truth_row in zip(mask, truth, strict=True):
        for a, b in zip(mask_row, truth_row, strict=True):
            inter += a and b
            union += a or b
    return inter, union


def quotient(inter: int, union: int) -> Fraction:
    return Fraction(inter, union) if union else Fraction(0)


def plain_metrics(chosen: list[tuple[int, int] | None], areas: list[int], empty: Empty) -> dict[str, Any]:
    """The metrics of (intersection, union) of each expression's choice; None where it has no proposal."""
    kept = [
        (0, area) if pair is None else pair
        for pair, area in zip(chosen, areas, strict=True)
        if pair is not None or empty == "count"
    ]
    if not kept:
        return {**dict.fromkeys(NAMES), "n": 0}
    ious = [quotient(i, u) for i, u in kept]
    return {
        "oiou": quotient(sum(i for i, _ in kept), sum(u for _, u in kept)),
        "miou": sum(ious) / len(ious),
        **{name: Fraction(sum(iou > limit for iou in ious), len(ious)) for name, limit in LIMITS.items()},
        "n": len(kept),
    }


def check(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(got) == set(expected)
    for name, value in expected.items():
        if value is None or name == "n":
            assert got[name] == value, name
        else:
            assert got[name] == pytest.approx(float(value), rel=1e-12), name


@st.composite
def cases(draw: st.DrawFn) -> Case:
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    some = st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=height, max_size=height)
    mask = some | st.just([[False] * width] * height) | st.just([[True] * width] * height)
    truths = draw(st.lists(mask, max_size=5))
    proposals = [draw(st.lists(mask | st.just(truth), max_size=3)) for truth in truths]
    chosen = [draw(st.integers(0, len(masks) - 1)) if masks else -1 for masks in proposals]
    return Case(truths, proposals, chosen)


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(["count", "skip"]))
def test_metrics_of_a_choice(case: Case, empty: Empty) -> None:
    outcome = case.outcome()
    pairs = [
        counts(masks[row], truth) if row >= 0 else None
        for truth, masks, row in zip(case.truths, case.proposals, case.chosen, strict=True)
    ]
    areas = [sum(map(sum, truth)) for truth in case.truths]
    check(summarise(outcome, empty), plain_metrics(pairs, areas, empty))
    assert outcome.decided.tolist() == [pair is not None for pair in pairs]
    assert outcome.hits.shape == (len(pairs), 3)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_upper_bound(case: Case) -> None:
    """Per expression the proposal with the highest IoU, the lowest index on ties."""
    arrays = case.arrays()
    expected = []
    for truth, masks in zip(case.truths, case.proposals, strict=True):
        best, best_iou = -1, Fraction(-1)
        for row, mask in enumerate(masks):
            iou = quotient(*counts(mask, truth))
            if iou > best_iou:
                best, best_iou = row, iou
        expected.append(best)
    found = first_best(iou_of(arrays["intersection"], arrays["union"]), arrays["offsets"])
    assert found.dtype == np.int64
    assert found.tolist() == expected
    bound = summarise(outcome_of_choice(found, **arrays))["miou"]
    assert bound is None or bound >= summarise(case.outcome())["miou"] - 1e-12


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(["count", "skip"]))
def test_random_is_the_mean_over_all_choices(case: Case, empty: Empty) -> None:
    """Every combination of choices, equally likely: the expected sums, IoUs and hits."""
    areas = [sum(map(sum, truth)) for truth in case.truths]
    options = [
        [counts(mask, truth) for mask in masks] or [None]
        for truth, masks in zip(case.truths, case.proposals, strict=True)
    ]
    runs = [plain_metrics(list(choice), areas, empty) for choice in product(*options)]
    got = summarise(outcome_of_random(**case.arrays()), empty)
    n = runs[0]["n"]
    expected: dict[str, Any] = {name: sum(run[name] for run in runs) / len(runs) if n else None for name in NAMES}
    if n:  # the ratio of the expected sums, not the mean of the runs' ratios
        kept = [
            [p or (0, a) for p in pairs]
            for pairs, a in zip(options, areas, strict=True)
            if empty == "count" or pairs != [None]
        ]
        inter, union = (sum(Fraction(sum(p[k] for p in pairs), len(pairs)) for pairs in kept) for k in (0, 1))
        expected["oiou"] = inter / union if union else Fraction(0)
    check(got, {**expected, "n": n})


def outcome(pairs: list[tuple[int, int]], undecided: tuple[int, ...] = ()) -> Outcome:
    """Expressions with one proposal each, of these counts; those at ``undecided`` have none."""
    kept = [pair for i, pair in enumerate(pairs) if i not in undecided]
    return outcome_of_choice(
        np.array([-1 if i in undecided else 0 for i in range(len(pairs))], np.int64),
        offsets_of(int(i not in undecided) for i in range(len(pairs))),
        np.array([i for i, _ in kept], np.int64),
        np.array([u for _, u in kept], np.int64),
        np.array([u for _, u in pairs], np.int64),
    )


def test_a_small_example_by_hand() -> None:
    found = outcome([(3, 4), (1, 10), (0, 6), (9, 10)], undecided=(2,))
    count, skip = summarise(found, "count"), summarise(found, "skip")
    check(count, {"oiou": 13 / 30, "miou": 1.75 / 4, "p50": 0.5, "p70": 0.5, "p90": 0.0, "n": 4})
    check(skip, {"oiou": 13 / 24, "miou": 1.75 / 3, "p50": 2 / 3, "p70": 2 / 3, "p90": 0.0, "n": 3})
    assert summarise(found) == count


@pytest.mark.parametrize(
    ("pair", "hits"),
    [((1, 2), [0, 0, 0]), ((501, 1000), [1, 0, 0]), ((7, 10), [1, 0, 0]), ((9, 10), [1, 1, 0]), ((5, 5), [1, 1, 1])],
)
def test_thresholds_are_strict(pair: tuple[int, int], hits: list[int]) -> None:
    assert outcome([pair]).hits.tolist() == [hits]


def test_union_0() -> None:
    """An empty proposal chosen for an empty ground truth: IoU 0, and no warning."""
    check(summarise(outcome([(0, 0), (0, 0)])), {**dict.fromkeys(NAMES, 0.0), "n": 2})
    assert iou_of(np.array([[0, 2], [3, 0]]), np.array([[0, 4], [3, 5]])).tolist() == [[0, 0.5], [1, 0]]


def test_no_expressions() -> None:
    for empty in ("count", "skip"):
        assert summarise(outcome([]), empty) == {**dict.fromkeys(NAMES), "n": 0}  # type: ignore[arg-type]
        assert summarise(outcome_of_random(**Case([], [], []).arrays()), empty)["n"] == 0  # type: ignore[arg-type]
    assert summarise(outcome([(1, 2)], undecided=(0,)), "skip") == {**dict.fromkeys(NAMES), "n": 0}
    assert bootstrap(outcome([]), np.zeros(0, np.int64), 100, 0) == {}


def test_sums_beyond_float32() -> None:
    """A split's pixels sum to more than 2^24, and each pair counts."""
    found = summarise(outcome([(1, 2**30 + 1), *[(1, 3)] * 1000]))
    assert found["oiou"] == pytest.approx(1001 / (2**30 + 3001), rel=1e-14)


def test_order_does_not_matter() -> None:
    pairs = [(i % 7, 7 + i % 5) for i in range(40)]
    check(summarise(outcome(pairs[::-1])), summarise(outcome(pairs)))


def test_not_even_the_last_bit_depends_on_the_order() -> None:
    rng = np.random.default_rng(0)
    pairs = [(int(i), int(i + u)) for i, u in rng.integers(0, 1000, (3000, 2))]
    found = [summarise(outcome([pairs[i] for i in rng.permutation(len(pairs))])) for _ in range(5)]
    assert found == [found[0]] * 5


def test_more_expressions_than_a_sum_can_hold_are_refused() -> None:
    sums = np.ones(1), np.ones(1), np.ones(1, np.int64)
    assert ratios(*sums, 2**22)["oiou"] == 1
    with pytest.raises(DataError, match="at most 4,194,304 expressions of one split, got 4,194,305"):
        ratios(*sums, 2**22 + 1)


def test_at_is_the_outcome_of_these_rows() -> None:
    pairs = [(1, 2), (3, 4), (2, 9), (5, 5)]
    rows = np.array([3, 1])
    check(summarise(outcome(pairs, (1,)).at(rows), "skip"), summarise(outcome([pairs[3]])))


# --- confidence intervals


def interval_case(images: int = 23, seed: int = 3) -> tuple[list[tuple[int, int]], list[int]]:
    rng = np.random.default_rng(seed)
    image = [int(i) * 10 for i in range(images) for _ in range(rng.integers(1, 5))]
    unions = rng.integers(1, 500, len(image))
    return [(int(u * share), int(u)) for u, share in zip(unions, rng.random(len(image)), strict=True)], image


def draws(images: int, resamples: int, seed: int) -> list[list[int]]:
    """How often each image is drawn in each resample: the only thing shared with the code under test."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, images, images, dtype=np.int32).tolist() for _ in range(resamples)]
    return [[row.count(image) for image in range(images)] for row in drawn]


def plain_percentile(values: list[float], share: float) -> float:
    """Linear interpolation between the sorted values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_bootstrap_against_a_loop_over_resamples(level: float) -> None:
    pairs, image = interval_case()
    names = sorted(set(image))
    oious, mious = [], []
    for row in draws(len(names), 200, seed=5):
        drawn = [
            p
            for name, times in zip(names, row, strict=True)
            for _ in range(times)
            for p, i in zip(pairs, image, strict=True)
            if i == name
        ]
        found = plain_metrics(list(drawn), [0] * len(drawn), "count")
        oious.append(float(found["oiou"]))
        mious.append(float(found["miou"]))
    got = bootstrap(outcome(pairs), np.array(image), 200, 5, level)
    tail = (1 - level) / 2
    assert set(got) == {"oiou_ci", "miou_ci"}
    for name, values in (("oiou_ci", oious), ("miou_ci", mious)):
        assert got[name] == pytest.approx(
            [plain_percentile(values, tail), plain_percentile(values, 1 - tail)], rel=1e-12
        )


def test_bootstrap_resamples_images_not_expressions() -> None:
    """Expressions of one image depend: repeating each ten times must not narrow the interval."""
    pairs, image = interval_case()
    once = bootstrap(outcome(pairs), np.array(image), 300, 0)
    repeated = bootstrap(outcome(pairs * 10), np.array(image * 10), 300, 0)
    for name, values in once.items():
        assert repeated[name] == pytest.approx(values, rel=1e-12)


def test_bootstrap_is_decided_by_its_seed() -> None:
    pairs, image = interval_case()
    first, again, other = (bootstrap(outcome(pairs), np.array(image), 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_bootstrap_does_not_see_the_order_of_expressions() -> None:
    pairs, image = interval_case()
    order = np.random.default_rng(0).permutation(len(image))
    shuffled = bootstrap(outcome([pairs[i] for i in order]), np.array(image)[order], 100, 1)
    for name, values in bootstrap(outcome(pairs), np.array(image), 100, 1).items():
        assert shuffled[name] == pytest.approx(values, rel=1e-12)


def test_bootstrap_of_a_constant_is_that_constant() -> None:
    found = bootstrap(outcome([(3, 4)] * 30), np.arange(30) // 2, 50, 0)
    assert found["oiou_ci"] == found["miou_ci"] == pytest.approx([0.75, 0.75])


def test_bootstrap_surrounds_the_value_and_narrows_with_more_images() -> None:
    def width(images: int) -> float:
        pairs, image = interval_case(images)
        value = summarise(outcome(pairs))["miou"]
        low, high = bootstrap(outcome(pairs), np.array(image), 400, 0)["miou_ci"]
        assert low < value < high
        return high - low

    assert width(400) < width(25) / 2


def test_bootstrap_of_one_image_and_of_none() -> None:
    """The one image is drawn every time: an interval of no width would promise what nobody knows."""
    assert bootstrap(outcome([(1, 2)]), np.array([7]), 10, 0) == {}
    pairs, image = interval_case()
    assert bootstrap(outcome(pairs), np.zeros(len(image), np.int64), 50, 0) == {}
    assert bootstrap(outcome([(1, 2), (1, 2)]), np.array([7, 9]), 0, 0) == {}


def test_bootstrap_of_the_random_rule() -> None:
    """Expectations are not integers, but resample like any other outcome."""
    rng = np.random.default_rng(0)
    union = rng.integers(5, 50, 60)
    arrays = {
        "offsets": offsets_of([3] * 20),
        "intersection": (union * rng.random(60)).astype(np.int64),
        "union": union,
        "area": rng.integers(1, 9, 20),
    }
    found = outcome_of_random(**arrays)
    low, high = bootstrap(found, np.arange(20), 200, 0)["oiou_ci"]
    assert low < summarise(found)["oiou"] < high
