"""The fast surface against the plain one, bit for bit: the same proposals chosen, the same sums, at every grid point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.contract import Context
from stages.scoring import surface as engine
from stages.scoring.fusion import Dots, first_best, projections, text_shares
from stages.scoring.metrics import Empty
from stages.scoring.score_rule import ScoreRule
from stages.scoring.surface_kernel import _candidates, add_expressions
from stages.scoring.surface_kernel import _projections as compiled_projections
from stages.scoring.table import PairTable
from store.ragged import offsets_of
from tests.helpers.oracles import RULES

CONTEXT = Context(work=Path())
Floats = NDArray[np.float32]


def table_of(
    counts: list[int],
    features: list[Floats],
    rule: ScoreRule = "cosine",
    group: list[int] | None = None,
    evaluated: list[bool] | None = None,
    overlaps: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> PairTable:
    """A pair table of these vectors: f_G, f_L (P, D), t_G, t_L (E, D).

    Without ``overlaps``, pair i has 2^i pixels in common with the truth and every union is 2^40: a sum of intersections
    then tells which pair every expression chose.
    """
    f_global, f_local, t_global, t_local = features
    expressions, pairs = len(counts), sum(counts)
    owner = np.repeat(np.arange(expressions), counts)

    def dots(x: Floats, y: Floats) -> Floats:
        return (x * y).sum(1, dtype=np.float32)

    inter, union = overlaps or (2 ** np.arange(pairs), np.full(pairs, 2**40))
    numbers = np.arange(expressions)
    return PairTable(
        dots=Dots(
            offsets=offsets_of(counts),
            a=dots(f_global, t_global[owner]),
            b=dots(f_global, t_local[owner]),
            c=dots(f_local, t_global[owner]),
            d=dots(f_local, t_local[owner]),
            global_norm=dots(f_global, f_global),
            cross_norm=dots(f_global, f_local),
            local_norm=dots(f_local, f_local),
            text_norms=np.stack([dots(t_global, t_global), dots(t_local, t_local), dots(t_global, t_local)], 1),
            score_rule=rule,
        ),
        groups=[("a", "one"), ("a", "two"), ("b", "none")],
        group=np.array([0] * expressions if group is None else group, np.int32),
        image=numbers,
        ref=numbers,
        area=numbers + 1,
        evaluated=np.array([True] * expressions if evaluated is None else evaluated, np.bool_),
        truncated=np.zeros(expressions, np.bool_),
        intersection=inter,
        union=union,
        proposal_score=np.ones(pairs, np.float32),
        proposal_area=np.ones(pairs, np.int64),
        kept=np.concatenate([np.arange(n) for n in counts] or [np.zeros(0, np.int64)]),
    )


def assert_same(pairs: PairTable, alphas: Any, betas: Any, empty: Empty = "count") -> None:
    alphas, betas = np.asarray(alphas, np.float64), np.asarray(betas, np.float64)
    found = engine.surface(pairs, alphas, betas, empty, CONTEXT)
    expected = engine.plain_surface(pairs, alphas, betas, empty)
    for name, values in expected.items():
        assert found[name].shape == (3, len(alphas), len(betas))
        np.testing.assert_array_equal(found[name], values, name)


@st.composite
def vectors(draw: st.DrawFn, rows: int) -> Floats:
    """Rows of few distinct small whole numbers, so that equal, opposite and zero vectors abound; some very long or short."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0, 1, 2, 9]))
    whole = rng.integers(-spread, spread + 1, (rows, 2)).astype(np.float32)
    noise = draw(st.sampled_from([0, 1e-7, 1e-3, 1]))
    scales = draw(st.sampled_from([[1], [1, 1e-12, 1e12], [1e-17], [1e15], [1, 1e-25]]))
    return ((whole + noise * rng.normal(size=whole.shape)) * rng.choice(scales, (rows, 1))).astype(np.float32)


@st.composite
def tables(draw: st.DrawFn) -> PairTable:
    counts = draw(st.lists(st.integers(0, 7), min_size=1, max_size=6))
    expressions, pairs = len(counts), sum(counts)
    features = [draw(vectors(rows)) for rows in (pairs, pairs, expressions, expressions)]
    overlaps = None
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 100)))
        union = rng.integers(0, 7, pairs)
        overlaps = np.minimum(union, rng.integers(0, 7, pairs)), union
    return table_of(
        counts,
        features,
        draw(st.sampled_from(RULES)),
        draw(st.lists(st.sampled_from([0, 1]), min_size=expressions, max_size=expressions)),
        draw(st.lists(st.sampled_from([True, True, False]), min_size=expressions, max_size=expressions)),
        overlaps,
    )


shares = st.floats(0, 1, width=32)
grids = st.one_of(
    st.integers(1, 40).map(lambda n: np.linspace(0, 1, n).tolist()),
    st.lists(shares, min_size=1, max_size=30),  # in any order, also twice the same
    st.builds(lambda first, n: [first + 1e-7 * i for i in range(n)], st.floats(0, 0.9), st.integers(2, 30)),
)


@given(tables(), st.lists(shares, min_size=1, max_size=10), grids, st.sampled_from(["count", "skip"]))
@settings(max_examples=150, deadline=None)
def test_equal_to_the_plain_surface(pairs: PairTable, alphas: list[float], betas: list[float], empty: Empty) -> None:
    assert_same(pairs, alphas, betas, empty)


def random_table(rule: ScoreRule, counts: list[int], seed: int, nearness: float, cone: float = 0.0) -> PairTable:
    """Vectors of 16 numbers; of every two neighbouring proposals one is the other moved by ``nearness``."""
    rng = np.random.default_rng(seed)
    pairs, expressions = sum(counts), len(counts)
    features = [rng.normal(size=(rows, 16)) + cone for rows in (pairs, pairs, expressions, expressions)]
    for own in features[:2]:
        own[1::2] = own[: pairs - 1 : 2] + nearness * own[1::2]
    union = rng.integers(1, 10**6, pairs)
    overlaps = rng.integers(0, union + 1), union
    return table_of(
        counts,
        [f.astype(np.float32) for f in features],
        rule,
        rng.integers(0, 2, expressions).tolist(),
        overlaps=overlaps,
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nearness", [0.0, 1e-8, 1e-7, 1e-6, 1e-4, 1.0])
def test_equal_among_equal_and_nearly_equal_proposals(rule: ScoreRule, nearness: float) -> None:
    counts = np.random.default_rng(5).integers(0, 25, 60).tolist()
    for cone in (0.0, 3.0):
        assert_same(random_table(rule, counts, 1, nearness, cone), np.linspace(0, 1, 23), np.linspace(0, 1, 41))


@pytest.mark.parametrize("empty", ["count", "skip"])
def test_equal_whatever_runs_and_alphas_go_together(monkeypatch: pytest.MonkeyPatch, empty: Empty) -> None:
    pairs = random_table("cosine", [12] * 10 + [0, 1, 2, 3, 40], 2, 1.0)
    alphas, betas = np.linspace(0, 1, 21), np.linspace(0, 1, 21)
    for expressions, together in ((1, 21), (4, 3), (1000, 1)):
        monkeypatch.setattr(engine, "EXPRESSIONS", expressions)
        for start in range(0, 21, together):
            assert_same(pairs, alphas[start : start + together], betas, empty)


def test_no_expressions_no_proposals() -> None:
    nothing = [np.zeros((0, 2), np.float32)] * 4
    assert_same(table_of([], nothing), [0, 1], [0.5])
    texts = np.ones((2, 2), np.float32)
    assert_same(table_of([0, 0], [*nothing[:2], texts, texts]), [0, 1], [0.5])


def candidates(x: Floats, y: Floats, m: Floats, n: Floats) -> NDArray[np.int64]:
    """Those of one expression with projections x, y (A, N) and shares m, n (B,)."""
    places = np.empty(x.shape[1], np.int64)
    _, number = _candidates(x, y, m, n, np.empty((4, x.shape[1]), np.float32), places)
    return places[:number]


def test_few_proposals_are_scored_and_the_winner_is_one_of_them() -> None:
    """What makes the surface fast, and what it must not lose."""
    pairs = random_table("cosine", [60] * 50, 3, 1.0)
    columns = tuple(column.reshape(50, 60) for column in pairs.dots.columns)
    alphas, betas = np.linspace(0.4, 0.5, 5).astype(np.float32), np.linspace(0, 1, 30).astype(np.float32)
    x, y = projections(columns, alphas[:, None, None], "cosine")
    shares = text_shares(pairs.dots.text_norms[:, None], betas, "cosine")
    kept = [candidates(x[:, e], y[:, e], *(share[e] for share in shares)) for e in range(50)]
    assert np.mean([len(own) for own in kept]) < 15
    for alpha in alphas:
        for beta in betas:
            best = first_best(pairs.dots.scores(float(alpha), float(beta)), pairs.offsets)
            assert all(best[e] in own for e, own in enumerate(kept))


@pytest.mark.parametrize("rule", RULES)
def test_the_compiled_projections_have_the_bits_of_the_plain_ones(rule: ScoreRule) -> None:
    pairs = random_table(rule, [5] * 40, 4, 1.0)
    x, y = np.empty(200, np.float32), np.empty(200, np.float32)
    for alpha in np.linspace(0, 1, 11).astype(np.float32):
        compiled_projections(pairs.dots.columns, 0, 200, alpha, rule == "cosine", x, y)
        for found, expected in zip((x, y), projections(pairs.dots.columns, alpha, rule), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_few_points_are_scored() -> None:
    """The proofs save most of the 101 betas; without leave to prove, none."""
    pairs = random_table("cosine", [60] * 20, 3, 1.0)
    betas = np.linspace(0, 1, 101).astype(np.float32)
    shares = text_shares(pairs.dots.text_norms[:, None], betas, "cosine")
    rest = (pairs.offsets, pairs.dots.columns, True, np.array([0.5], np.float32), *shares)
    gains = pairs.intersection, pairs.union, pairs.union
    scored = {}
    for provable in (True, False):
        sums = np.zeros((3, 1, 101), np.int64)
        scored[provable] = add_expressions(np.arange(20), *rest, provable, gains, sums)
    assert scored[False] > 3 * scored[True]


def test_a_lead_that_rounding_could_turn_is_no_proof() -> None:
    """Two proposals whose scores differ by less than the rounding of one: every point is decided by its own score."""
    rng = np.random.default_rng(0)
    f = rng.normal(size=(400, 8)).astype(np.float32)
    f[1::2] = np.nextafter(f[::2], np.float32(9))
    t = rng.normal(size=(2, 200, 8)).astype(np.float32)
    pairs = table_of([2] * 200, [f, f, *t], overlaps=(np.arange(400) % 2, np.ones(400, np.int64)))
    alphas, betas = [0.3, 0.7], np.linspace(0, 1, 51)
    assert_same(pairs, alphas, betas)
    changes = np.diff([first_best(pairs.dots.scores(0.3, b), pairs.offsets) for b in betas], axis=0)
    assert (np.abs(changes).sum(0) > 2).mean() > 0.2, "the case should be one where choices come and go"


def test_the_loop_that_is_loaded_ahead_is_the_one_that_runs() -> None:
    """One set of types: another would be compiled when it is needed, and waited for."""
    engine.load_kernel()
    assert_same(random_table("cosine", [3] * 10, 2, 1.0), [0, 1], [0, 1])
    assert len(add_expressions.signatures) == 1
