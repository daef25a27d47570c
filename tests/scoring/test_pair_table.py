"""The pair table in memory: k, alpha and filters, against loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages import score as score_stage
from stages.scoring.fusion import Dots, first_best
from stages.scoring.table import Filters, PairTable, load_pairs, with_view
from store.errors import ParameterError, StoreError
from store.table import read_table
from tests.helpers.oracles import RULES, kept_positions, make_pairs, store_with_pairs
from tests.helpers.stores import GROUPS, Synthetic, synthetic

made = pytest.fixture(scope="module", params=RULES)(store_with_pairs)


def test_k(made: Synthetic) -> None:
    path = made.paths["pairs"]
    table = read_table(path, "pairs")
    for given_k in (1, 3):
        pairs, attrs = load_pairs(path, given_k)
        np.testing.assert_array_equal(pairs.dots.a, table[f"dot.global.k{given_k}*sentence"])
        assert (attrs["k"], attrs["ks"]) == (given_k, [1, 3])
        other = with_view(load_pairs(path, 4 - given_k)[0], f"global.k{given_k}")
        for name in ("a", "b", "c", "d", "global_norm", "cross_norm", "local_norm"):
            np.testing.assert_array_equal(getattr(other.dots, name), getattr(pairs.dots, name))
    with pytest.raises(ParameterError, match=rf"k = 2: {path} holds k = 1, 3; .*masked_blocks"):
        load_pairs(path, 2)


def test_another_k_is_of_the_same_file(tmp_path: Path) -> None:
    """Between reading one k and the next the file is replaced by that of another run."""
    made, other = synthetic(tmp_path / "a"), synthetic(tmp_path / "b", seed=1)
    path = make_pairs(made)
    pairs, _ = load_pairs(path, 3)
    path.write_bytes(make_pairs(other).read_bytes())
    with pytest.raises(StoreError, match=rf"{path}: was replaced while it was read"):
        with_view(pairs, "global.k1")


def test_alpha_of_a_data_set(made: Synthetic) -> None:
    params = score_stage.Params(alpha=0.3, alpha_by_dataset={"other": 0.7})
    assert params.alpha_of(GROUPS) == [0.3, 0.3, 0.7]
    pairs, _ = load_pairs(made.paths["pairs"], 3)
    expected = [0.7 if GROUPS[made.ref_group[ref]][0] == "other" else 0.3 for ref in made.ref]
    assert pairs.alphas(params).tolist() == expected
    with pytest.raises(ParameterError, match=r"'othr'; did you mean 'other'.*toy"):
        score_stage.Params(alpha_by_dataset={"othr": 0.7}).alpha_of(GROUPS)


FILTERS = [
    Filters(),
    Filters(min_score=0.4),
    Filters(min_score=1.0),
    Filters(min_area=25),
    Filters(top_n=1),
    Filters(top_n=3),
    Filters(min_score=0.2, min_area=10, top_n=4),
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_filters_against_a_loop(made: Synthetic, filters: Filters) -> None:
    pairs, _ = load_pairs(made.paths["pairs"], 3)
    kept = pairs.filtered(filters)
    everything = [kept_positions(made, e, filters) for e in range(len(made.ref))]
    assert np.diff(kept.offsets).tolist() == [len(positions) for positions in everything]
    assert kept.kept.tolist() == [p for positions in everything for p in positions]
    rows = [pairs.offsets[e] + p for e, positions in enumerate(everything) for p in positions]
    for name in ("intersection", "union", "proposal_score", "proposal_area"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(pairs, name)[rows])
    np.testing.assert_array_equal(kept.dots.scores(0.7, 0.3), pairs.dots.scores(0.7, 0.3)[rows])
    for scores in (pairs.dots.scores(0.7, 0.3), np.full(len(pairs.union), -7, np.float32)):
        best = first_best(scores[rows], kept.offsets)
        expected = [positions[b] if positions else -1 for positions, b in zip(everything, best, strict=True)]
        assert pairs.choice(scores, filters).tolist() == expected
    np.testing.assert_array_equal(kept.filtered(Filters(top_n=2)).kept, kept.kept[kept.kept < 2])


def table_of(dots: Dots, scores: list[float], counts: list[int]) -> PairTable:
    """A table of these dots in one group; ``counts`` are areas, intersections and unions."""
    expressions, pixels = len(dots.offsets) - 1, np.array(counts)
    zeros, positions = np.zeros(expressions, np.int64), [p for n in np.diff(dots.offsets) for p in range(n)]
    return PairTable(
        dots=dots, groups=[("a", "b")], group=zeros.astype(np.int32), image=zeros, ref=zeros, area=zeros,
        evaluated=zeros == 0, truncated=zeros > 0, intersection=pixels, union=pixels,
        proposal_score=np.array(scores, np.float32), proposal_area=pixels, kept=np.array(positions),
    )  # fmt: skip


def test_a_filter_keeps_its_threshold() -> None:
    """A score or area equal to the least one stays."""
    below = float(np.nextafter(np.float32(0.3), np.float32(0)))
    dots = Dots(np.array([0, 2]), *[np.ones(2, np.float32)] * 7, text_norms=np.ones((1, 3), np.float32))
    pairs = table_of(dots, [0.3, below], [5, 6])
    assert pairs.filtered(Filters(min_score=0.3)).kept.tolist() == [0]
    assert pairs.filtered(Filters(min_area=6)).kept.tolist() == [1]


def test_global_and_cropping_are_the_ends_of_alpha() -> None:
    """Where the other feature has any weight, its large dots decide."""
    one, other = np.array([1, 0.99, -99, 99], np.float32), np.array([-99, 99, 1, 0.99], np.float32)
    ones = np.ones(4, np.float32)
    dots = Dots(
        np.array([0, 2, 4]), one, one, other, other, ones, ones, ones, np.ones((2, 3), np.float32), "unnormalised"
    )
    pairs = table_of(dots, [1] * 4, [1] * 4)
    params = score_stage.Params(alpha=0.999)
    chosen = score_stage.choose(pairs, score_stage.rule_scores(pairs, params), params)
    assert chosen["global"].tolist() == [0, 1]
    assert chosen["cropping"].tolist() == [1, 0]
    assert chosen["global_local"].tolist() == [1, 1]


def test_a_score_of_minus_infinity_is_never_chosen() -> None:
    """A rule says so of a proposal that it cannot rank; where it says so of all, the expression has no choice."""
    ones = np.ones(4, np.float32)
    dots = Dots(np.array([0, 2, 4]), *[ones] * 7, text_norms=np.ones((2, 3), np.float32))
    pairs = table_of(dots, [1] * 4, [1] * 4)
    scores = np.array([-np.inf, -5, -np.inf, -np.inf], np.float32)
    assert pairs.choice(scores, Filters()).tolist() == [1, -1]
