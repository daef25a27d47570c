"""From raw vectors to chosen masks and surfaces, against plain loops written from reference.md sec. 3 and 4."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages import pairs as pair_stage
from stages import score as score_stage
from stages import sweep as sweep_stage
from stages.base import Context
from stages.fusion import Dots, ScoreRule, first_best, fused_scores
from stages.metrics import summarise
from stages.pair_table import Filters, PairTable, load_pairs
from store.errors import ParameterError, StoreError
from store.ragged import offsets_of
from store.table import read_table, write_table
from store.vectors import Vectors, write_vectors
from tests.stores import CUT, GROUPS, Synthetic, synthetic

GOLDEN = Path(__file__).parent / "golden"
GRID = [0.0, 0.15, 0.5, 0.85, 0.95, 1.0]
RULES: tuple[ScoreRule, ...] = ("cosine", "unnormalised")

Vector = Sequence[float] | NDArray[Any]


# --- oracles


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(float(a) * float(b) for a, b in zip(x, y, strict=True))


def unit(x: Vector) -> list[float]:
    return [float(a) / math.sqrt(dot(x, x)) for a in x]


def mix(x: Vector, y: Vector, share: float) -> list[float]:
    return [share * float(a) + (1 - share) * float(b) for a, b in zip(x, y, strict=True)]


def plain_score(f_g: Vector, f_l: Vector, t_g: Vector, t_l: Vector, v: float, r: float, rule: ScoreRule) -> float:
    """reference.md sec. 2 and 3: f = v f_G + (1 - v) f_L, t = r t_G + (1 - r) t_L, all raw; 100 cos(f, t). RN50: text
    vectors normalised before they are mixed, and 100 f.t."""
    f = mix(f_g, f_l, v)
    if rule == "unnormalised":
        return 100 * dot(f, mix(unit(t_g), unit(t_l), r))
    t = mix(t_g, t_l, r)
    return 100 * dot(f, t) / math.sqrt(dot(f, f) * dot(t, t))


def plain_scores(made: Synthetic, expression: int, v: float, r: float, rule: ScoreRule, k: int) -> list[float]:
    """Of all proposals of the expression's image, from the vectors."""
    sentence, phrase = (made.text[row] for row in made.strings[expression])
    return [
        plain_score(made.f_global[k][row], made.f_local[row], sentence, phrase, v, r, rule)
        for row in made.rows_of(expression)
    ]


def plain_best(values: Sequence[float]) -> int:
    best = -1
    for position, value in enumerate(values):
        if best < 0 or value > values[best]:
            best = position
    return best


def overlap_of(made: Synthetic, expression: int, position: int) -> tuple[int, int]:
    """Intersection and union of the chosen proposal with the ground truth; without a choice 0 and the truth's area."""
    truth = made.truth[made.ref[expression]]
    assert truth is not None
    if position < 0:
        return 0, int(truth.sum())
    mask = made.proposals[made.image_of(expression)][position]
    return int((mask & truth).sum()), int((mask | truth).sum())


def plain_metrics(made: Synthetic, chosen: dict[int, int], empty: str) -> dict[str, Any]:
    """oIoU, mIoU and n of expression -> chosen position."""
    kept = [overlap_of(made, e, p) for e, p in chosen.items() if p >= 0 or empty == "count"]
    if not kept:
        return {"oiou": None, "miou": None, "n": 0}
    ious = [i / u if u else 0.0 for i, u in kept]
    return {"oiou": sum(i for i, _ in kept) / sum(u for _, u in kept), "miou": sum(ious) / len(ious), "n": len(kept)}


def evaluated(made: Synthetic, group: int) -> list[int]:
    return [e for e, ref in enumerate(made.ref) if made.ref_group[ref] == group and made.truth[ref] is not None]


# --- fused scores from vectors


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("v", GRID)
@pytest.mark.parametrize("r", GRID)
def test_fused_scores_against_loops(rule: ScoreRule, v: float, r: float) -> None:
    rng = np.random.default_rng(0)
    f_g, f_l = rng.normal(size=(2, 7, 5)).astype(np.float32) * 10
    t_g, t_l = rng.normal(size=(2, 5)).astype(np.float32)
    expected = [plain_score(g, l, t_g, t_l, v, r, rule) for g, l in zip(f_g, f_l, strict=True)]
    got = fused_scores(f_g, f_l, t_g, t_l, v, r, rule)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    if rule == "cosine":
        np.testing.assert_array_equal(fused_scores(f_g, f_l, t_g, t_l, v, r), got)


def test_fused_scores_keep_the_norms() -> None:
    """Raw vectors are mixed: the longer one weighs more (reference.md sec. 2)."""
    east, north = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert fused_scores(3 * east, north, east[0], east[0], 0.5, 0.5) == pytest.approx(100 * 3 / math.sqrt(10))
    assert fused_scores(east, north, 3 * east[0], north[0], 1.0, 0.5) == pytest.approx(100 * 3 / math.sqrt(10))
    assert fused_scores(3 * east, north, east[0], 5 * east[0], 0.5, 0.5, "unnormalised") == pytest.approx(150)


@pytest.mark.parametrize("rule", RULES)
def test_fused_scores_of_nothing(rule: ScoreRule) -> None:
    none, zero, one = np.zeros((0, 3)), np.zeros((1, 3)), np.ones((1, 3))
    assert fused_scores(none, none, one[0], one[0], 0.5, 0.5, rule).shape == (0,)
    assert fused_scores(zero, zero, one[0], one[0], 0.5, 0.5, rule).tolist() == [0]
    assert fused_scores(one, one, zero[0], zero[0], 0.5, 0.5, rule).tolist() == [0]


# --- scores from the table's dots


def dots_of(
    rng: np.random.Generator, counts: Sequence[int], rule: ScoreRule, dim: int = 24
) -> tuple[Dots, list[list[NDArray[Any]]]]:
    """Dots of random raw vectors, and for each expression f_G, f_L (n, D) and t_G, t_L (D,)."""
    vectors = [
        [
            rng.normal(0.4, s, shape).astype(np.float32)
            for s, shape in ((2, (n, dim)), (5, (n, dim)), (1, dim), (3, dim))
        ]
        for n in counts
    ]

    def column(name: str) -> NDArray[np.float32]:
        x, y = ("glst".index(letter) for letter in name)
        return np.array([value for v in vectors for value in np.float32((v[x] * v[y]).sum(-1))], np.float32)

    text = np.array([[np.float32(dot(v[a], v[b])) for a, b in ((2, 2), (3, 3), (2, 3))] for v in vectors], np.float32)
    text = text.reshape(-1, 3)
    names = {"a": "gs", "b": "gt", "c": "ls", "d": "lt", "global_norm": "gg", "cross_norm": "gl", "local_norm": "ll"}
    return Dots(
        offsets_of(counts), **{n: column(c) for n, c in names.items()}, text_norms=text, score_rule=rule
    ), vectors


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", [0, 1])
def test_dots_equal_the_vectors(rule: ScoreRule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dots, vectors = dots_of(rng, [5, 0, 1, 8, 3], rule)
    for v in (*GRID, np.array([0.1, 0.5, 0.0, 1.0, 0.85])):
        for r in GRID:
            got = dots.scores(v, r)
            assert got.dtype == np.float32
            alphas = np.broadcast_to(v, len(vectors))
            expected = np.concatenate(
                [fused_scores(*x, float(a), r, rule) for x, a in zip(vectors, alphas, strict=True)]
            )
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("rule", RULES)
def test_dots_of_vectors_without_length_and_of_no_pairs(rule: ScoreRule) -> None:
    """Features of an image that could not be read are zeros: score 0, no NaN."""
    zeros = Dots(
        np.array([0, 2]),
        *(np.zeros(2, np.float32) for _ in range(7)),
        text_norms=np.ones((1, 3), np.float32),
        score_rule=rule,
    )
    assert zeros.scores(0.5, 0.5).tolist() == [0, 0]
    none, _ = dots_of(np.random.default_rng(0), [], rule)
    assert none.scores(np.zeros(0), 0.5).shape == (0,)


# --- the best of each segment


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(-2, 2), max_size=4), max_size=6))
def test_first_best_against_a_loop(segments: list[list[int]]) -> None:
    values = np.array([v for segment in segments for v in segment], np.float32)
    best = first_best(values, offsets_of(map(len, segments)))
    assert best.dtype == np.int64
    assert best.tolist() == [plain_best(segment) for segment in segments]


@pytest.mark.parametrize("fill", [-np.inf, -1e38])
def test_first_best_of_the_lowest_values(fill: float) -> None:
    assert first_best(np.full(3, fill, np.float32), np.array([0, 0, 3, 3])).tolist() == [-1, 0, -1]


# --- the pair stage


def context(folder: Path) -> Context:
    return Context(work=folder / "work")


def fields(made: Synthetic, stage: Any, **more: Path) -> Any:
    return stage.Paths(**{n: p for n, p in made.paths.items() if n in stage.Paths.model_fields}, **more)


def make_pairs(made: Synthetic) -> Path:
    pair_stage.run(pair_stage.Params(), fields(made, pair_stage), context(made.paths["pairs"].parent))
    return made.paths["pairs"]


@pytest.fixture(scope="module", params=RULES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A store with its pair table."""
    result = synthetic(tmp_path_factory.mktemp("store"), score_rule=request.param)
    make_pairs(result)
    return result


@pytest.fixture(scope="module")
def rule(made: Synthetic) -> ScoreRule:
    found: ScoreRule = read_table(made.paths["pairs"], "pairs", ()).attrs["score_rule"]
    return found


def test_pair_table_against_direct_products(made: Synthetic) -> None:
    table = read_table(made.paths["pairs"], "pairs")
    offsets = table["expression_offsets"]
    assert table.ks() == sorted(made.f_global)
    assert table.attrs["groups"] == [list(group) for group in GROUPS]
    assert len(offsets) == len(made.ref) + 1
    for e, ref in enumerate(made.ref):
        sentence, phrase = (made.text[row] for row in made.strings[e])
        for name, value in (
            ("image", made.ref_image[ref]),
            ("ref", ref),
            ("group", made.ref_group[ref]),
            ("area", 0 if made.truth[ref] is None else int(made.truth[ref].sum())),  # type: ignore[union-attr]
            ("truncated", CUT in made.strings[e]),
            ("status", "no ground truth" if made.truth[ref] is None else ""),
        ):
            assert table[f"expression_{name}"][e] == value, name
        np.testing.assert_allclose(
            table["text_norms"][e],
            [dot(sentence, sentence), dot(phrase, phrase), dot(sentence, phrase)],
            rtol=1e-5,
            atol=1e-4,
        )
        assert range(offsets[e], offsets[e + 1]) == range(offsets[e], offsets[e] + len(made.rows_of(e)))
        for position, row in enumerate(made.rows_of(e)):
            local, pair = made.f_local[row], offsets[e] + position
            mask = made.proposals[made.image_of(e)][position]
            assert table["proposal"][pair] == row
            assert table["proposal_score"][pair] == made.scores[row]
            assert table["proposal_area"][pair] == mask.sum()
            np.testing.assert_array_equal(table["proposal_box"][pair], made.boxes[row])
            if made.truth[ref] is not None:
                assert (table["intersection"][pair], table["union"][pair]) == overlap_of(made, e, position)
            expected = {"c": dot(local, sentence), "d": dot(local, phrase), "local_norm": dot(local, local)}
            for k, features in made.f_global.items():
                f = features[row]
                values = {
                    "a": dot(f, sentence),
                    "b": dot(f, phrase),
                    "global_norm": dot(f, f),
                    "cross_norm": dot(f, local),
                }
                expected |= {f"{n}.k{k}": value for n, value in values.items()}
            for name, value in expected.items():
                assert table[name][pair] == pytest.approx(value, rel=1e-5, abs=1e-4), name


def test_pair_stage_reads_in_any_blocks(made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are read a shard at a time; images are never torn, also those larger than a shard, or without proposals."""
    for shard_rows in (1, 5, 10, 14):
        monkeypatch.setattr(pair_stage, "SHARD_ROWS", shard_rows)
        paths = fields(made, pair_stage).model_copy(update={"pairs": tmp_path / "again.h5"})
        summary = pair_stage.run(pair_stage.Params(), paths, context(tmp_path))
        assert (tmp_path / "again.h5").read_bytes() == made.paths["pairs"].read_bytes()
        assert summary.wrote == {"pairs": sum(len(made.rows_of(e)) for e in range(len(made.ref)))}
        unusable = [e for e, ref in enumerate(made.ref) if made.truth[ref] is None]
        assert summary.skipped == [f"expression {e}: no ground truth" for e in unusable]
        assert unusable


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0)])
def test_pair_stage_with_images_without_proposals(tmp_path: Path, counts: tuple[int, ...]) -> None:
    made = synthetic(tmp_path, counts=counts)
    table = read_table(make_pairs(made), "pairs")
    assert np.diff(table["expression_offsets"]).tolist() == [counts[made.image_of(e)] for e in range(len(made.ref))]


LINKS = [("proposals", "index"), ("overlap", "index"), ("overlap", "proposals"), ("parse", "index")]
LINKS += [("mask_features", "proposals"), ("text_features", "parse")]


@pytest.mark.parametrize(("consumer", "source"), LINKS)
def test_pair_stage_refuses_tables_of_another_run(tmp_path: Path, consumer: str, source: str) -> None:
    made = synthetic(tmp_path)
    path = made.paths[consumer]
    if path.is_dir():
        opened = Vectors(path, consumer)
        made_from = {**opened.attrs["made_from"], source: "0" * 64}
        name, others = {
            "mask_features": ("local", ["status"]),
            "text_features": ("feature", ["string", "truncated", "sentence_string", "phrase_string"]),
        }[consumer]
        rows, columns = opened.rows(name), {other: opened.column(other) for other in others}
        write_vectors(path, consumer, *rows.shape, {name: [rows]}, columns, {}, made_from)  # type: ignore[arg-type]
    else:
        table = read_table(path, consumer)
        write_table(path, consumer, table.columns, {}, {**table.attrs["made_from"], source: "0" * 64})
    with pytest.raises(StoreError, match=rf"pair: {path} was made from another {source} than .*dvc repro"):
        make_pairs(made)
    assert not made.paths["pairs"].exists()


# --- the table in memory: k, alpha, filters


def test_k(made: Synthetic) -> None:
    path = made.paths["pairs"]
    table = read_table(path, "pairs")
    for given_k in (1, 3):
        pairs, attrs = load_pairs(path, given_k)
        np.testing.assert_array_equal(pairs.dots.a, table[f"a.k{given_k}"])
        assert (attrs["k"], attrs["ks"]) == (given_k, [1, 3])
    with pytest.raises(ParameterError, match=rf"k = 2: {path} holds k = 1, 3; .*masked_blocks"):
        load_pairs(path, 2)


def test_alpha_of_a_data_set(made: Synthetic) -> None:
    params = score_stage.Params(alpha=0.3, alpha_by_dataset={"other": 0.7})
    assert params.alpha_of(GROUPS) == [0.3, 0.3, 0.7]
    pairs, _ = load_pairs(made.paths["pairs"], 3)
    expected = [0.7 if GROUPS[made.ref_group[ref]][0] == "other" else 0.3 for ref in made.ref]
    assert score_stage.alpha_of_expressions(pairs, params).tolist() == expected
    with pytest.raises(ParameterError, match=r"'othr'; did you mean 'other'.*toy"):
        score_stage.Params(alpha_by_dataset={"othr": 0.7}).alpha_of(GROUPS)


def kept_positions(made: Synthetic, expression: int, filters: Filters) -> list[int]:
    masks = made.proposals[made.image_of(expression)]
    return [
        position
        for position, row in enumerate(made.rows_of(expression))
        if made.scores[row] >= np.float32(filters.min_score)
        and masks[position].sum() >= filters.min_area
        and (not filters.top_n or position < filters.top_n)
    ]


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
    last = np.diff(kept.offsets) - 1
    assert kept.unfiltered(last).tolist() == [positions[-1] if positions else -1 for positions in everything]
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
    chosen = score_stage.choose(table_of(dots, [1] * 4, [1] * 4), score_stage.Params(alpha=0.999))
    assert chosen["global"].tolist() == [0, 1]
    assert chosen["cropping"].tolist() == [1, 0]
    assert chosen["global_local"].tolist() == [1, 1]


# --- the score stage


@pytest.mark.parametrize("filters", [Filters(), Filters(min_score=0.3, min_area=8, top_n=4)], ids=["all", "filtered"])
@pytest.mark.parametrize("empty", ["count", "skip"])
def test_score_stage_against_loops(
    made: Synthetic, rule: ScoreRule, tmp_path: Path, filters: Filters, empty: str
) -> None:
    params = score_stage.Params(
        **filters.config(), alpha=0.6, alpha_by_dataset={"other": 0.2}, beta=0.3, k=1, empty=empty, resamples=50
    )  # type: ignore[arg-type]
    paths = fields(made, score_stage, metrics=tmp_path / "metrics.json").model_copy(
        update={"scores": tmp_path / "scores.h5"}
    )
    score_stage.run(params, paths, context(tmp_path))
    table = read_table(tmp_path / "scores.h5", "scores")
    metrics = json.loads((tmp_path / "metrics.json").read_text())

    expressions = range(len(made.ref))
    chosen: dict[str, dict[int, int]] = {name: {} for name in ("global_local", "global", "cropping", "upper_bound")}
    scores: list[float] = []
    for e in expressions:
        alpha = 0.2 if GROUPS[made.ref_group[made.ref[e]]][0] == "other" else 0.6
        kept = kept_positions(made, e, filters)
        scores += plain_scores(made, e, alpha, 0.3, rule, 1)
        for name, v in (("global_local", alpha), ("global", 1.0), ("cropping", 0.0)):
            values = plain_scores(made, e, v, 0.3, rule, 1)
            best = plain_best([values[p] for p in kept])
            chosen[name][e] = kept[best] if best >= 0 else -1
        if made.truth[made.ref[e]] is not None:
            overlaps = [overlap_of(made, e, p) for p in kept]
            best = plain_best([i / u if u else 0 for i, u in overlaps])
            chosen["upper_bound"][e] = kept[best] if best >= 0 else -1
    np.testing.assert_allclose(table["score"], scores, rtol=1e-4, atol=1e-3)
    assert table["chosen"].tolist() == list(chosen["global_local"].values())
    for name in ("global", "cropping"):
        assert table[f"chosen_{name}"].tolist() == list(chosen[name].values())
    for e, position in chosen["upper_bound"].items():
        assert table["chosen_upper_bound"][e] == position
    assert table.attrs["config"]["k"] == 1
    assert table.attrs["made_from"] == {"pairs": read_table(made.paths["pairs"], "pairs", ()).digest}

    assert {(dataset, split) for dataset, splits in metrics.items() for split in splits} == set(GROUPS)
    for group, (dataset, split) in enumerate(GROUPS):
        found, rows = metrics[dataset][split], evaluated(made, group)
        assert set(found) == {"global_local", "global", "cropping", "upper_bound", "random", "counts"}
        for name, by_expression in chosen.items():
            mine = {e: by_expression[e] for e in rows}
            for expected, got in (
                (plain_metrics(made, mine, empty), found[name]),
                (plain_metrics(made, mine, "skip"), found[name]["skip"]),
            ):
                for key, value in expected.items():
                    assert got[key] == pytest.approx(value, rel=1e-12), (name, key)
            assert found[name]["oiou_ci"][0] <= found[name]["oiou"] <= found[name]["oiou_ci"][1]
        options = {e: kept_positions(made, e, filters) for e in rows}
        ious = [
            sum(i / u if u else 0 for i, u in (overlap_of(made, e, p) for p in positions)) / len(positions)
            if positions
            else 0.0
            for e, positions in options.items()
            if positions or empty == "count"
        ]
        assert found["random"]["miou"] == pytest.approx(sum(ious) / len(ious), rel=1e-12)
        every = [e for e, ref in enumerate(made.ref) if made.ref_group[ref] == group]
        images = {made.image_of(e) for e in every}
        assert found["counts"] == {
            "expressions": len(every),
            "refs": len({made.ref[e] for e in every}),
            "images": len(images),
            "images_without_proposals": len(
                {i for i in images if not any(kept_positions(made, e, filters) for e in every if made.image_of(e) == i)}
            ),
            "truncated_texts": sum(CUT in made.strings[e] for e in every),
            "not_evaluated": len(every) - len(rows),
            "no_choice": sum(chosen["global_local"][e] < 0 for e in every),
        }


def test_score_stage_is_deterministic(made: Synthetic, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        paths = fields(made, score_stage, metrics=tmp_path / f"{name}.json").model_copy(
            update={"scores": tmp_path / f"{name}.h5"}
        )
        score_stage.run(score_stage.Params(), paths, context(tmp_path))
        written.append((paths.scores.read_bytes(), paths.metrics.read_bytes()))
    assert written[0] == written[1]


def test_intervals_can_be_left_out(made: Synthetic) -> None:
    pairs, _ = load_pairs(made.paths["pairs"], 3)
    params = score_stage.Params(resamples=0)
    metrics = score_stage.metrics_of(pairs, params, score_stage.choose(pairs, params))
    assert "oiou_ci" not in metrics["toy"]["val"]["global_local"]


# --- the sweep stage


@pytest.mark.parametrize("empty", ["count", "skip"])
def test_surface_equals_scoring_each_point(made: Synthetic, empty: Any) -> None:
    kept = load_pairs(made.paths["pairs"], 3)[0].filtered(Filters(top_n=4))
    alphas, betas = np.linspace(0, 1, 6).round(6), np.linspace(0, 1, 4).round(6)
    surface = sweep_stage.surface(kept, alphas, betas, empty, Context(work=Path()))
    for i, alpha in enumerate(alphas):
        for j, beta in enumerate(betas):
            params = score_stage.Params(alpha=alpha, beta=beta, empty=empty)
            chosen = score_stage.choose(kept, params)["global_local"]
            unfiltered = load_pairs(made.paths["pairs"], 3)[0]
            for group in range(len(GROUPS)):
                expected = summarise(unfiltered.outcome(chosen).at(unfiltered.members(group)), empty)
                for name, values in surface.items():
                    assert values[group, i, j] == expected[name], (name, alpha, beta)


@pytest.mark.parametrize("filters", [Filters(), Filters(min_score=0.3, min_area=20)], ids=["all", "filtered"])
def test_sweep_stage(made: Synthetic, rule: ScoreRule, tmp_path: Path, filters: Filters) -> None:
    """The grid file: values of the surface, its marked points, and ablations, against loops over the vectors."""
    tried: dict[str, Any] = {"top_ns": [1, 3], "min_areas": 20} if filters == Filters() else {}
    params = sweep_stage.Params(
        alphas=5, betas=3, alpha=0.6, alpha_by_dataset={"other": 0.25}, beta=0.5, **filters.config(), **tried
    )
    sweep_stage.run(params, fields(made, sweep_stage, grid=tmp_path / "grid.json"), context(tmp_path))
    grid = json.loads((tmp_path / "grid.json").read_text())
    assert (grid["alphas"], grid["betas"]) == ([0, 0.25, 0.5, 0.75, 1], [0, 0.5, 1])

    def value(group: int, v: float, r: float, filters: Filters = filters, k: int = 3) -> dict[str, Any]:
        chosen = {}
        for e in evaluated(made, group):
            positions, values = kept_positions(made, e, filters), plain_scores(made, e, v, r, rule, k)
            best = plain_best([values[p] for p in positions])
            chosen[e] = positions[best] if best >= 0 else -1
        return plain_metrics(made, chosen, "count")

    for group, (dataset, split) in enumerate(GROUPS):
        found = grid["splits"][dataset][split]
        alpha = 0.25 if dataset == "other" else 0.6
        for name in ("oiou", "miou"):
            expected = [[value(group, v, r)[name] for r in grid["betas"]] for v in grid["alphas"]]
            np.testing.assert_allclose(found[name], expected, atol=6e-7)
            best = max(x for row in expected for x in row)
            first = next(
                (v, r)
                for v, row in zip(grid["alphas"], expected, strict=True)
                for r, x in zip(grid["betas"], row, strict=True)
                if x == best
            )
            assert found["best"][name] == {"alpha": first[0], "beta": first[1], "value": pytest.approx(best)}
        assert found["chosen"] == {
            "alpha": alpha,
            "beta": 0.5,
            **{n: pytest.approx(value(group, alpha, 0.5)[n]) for n in ("oiou", "miou")},
        }

        rows = [row for row in grid["ablations"] if (row["dataset"], row["split"]) == (dataset, split)]
        expected_rows = [
            ("chosen", "k = 3, beta = 0.5", value(group, alpha, 0.5)),
            ("masked blocks", "k = 1", value(group, alpha, 0.5, k=1)),
            ("text", "sentence only (beta = 1)", value(group, alpha, 1.0)),
            ("text", "noun phrase only (beta = 0)", value(group, alpha, 0.0)),
        ]
        if tried:
            expected_rows += [
                ("min_area", "min_area = 20", value(group, alpha, 0.5, Filters(min_area=20))),
                ("top_n", "top_n = 1", value(group, alpha, 0.5, Filters(top_n=1))),
                ("top_n", "top_n = 3", value(group, alpha, 0.5, Filters(top_n=3))),
            ]
        assert [(row["name"], row["setting"]) for row in rows] == [
            (name, setting) for name, setting, _ in expected_rows
        ]
        for row, (_, setting, metrics) in zip(rows, expected_rows, strict=True):
            assert row["n"] == len(evaluated(made, group))
            for name in ("oiou", "miou"):
                assert row[name] == pytest.approx(metrics[name], rel=1e-12), setting


def test_best_point_is_the_first_on_ties() -> None:
    values = np.array([[0.1, 0.3], [0.3, 0.3]])
    assert sweep_stage.best_point(values, np.array([0.0, 1.0]), np.array([0.2, 0.4])) == {
        "alpha": 0.0,
        "beta": 0.4,
        "value": 0.3,
    }


def test_an_empty_group_is_0_on_the_surface(tmp_path: Path) -> None:
    made = synthetic(tmp_path, seed=1, counts=(2,))
    pairs, _ = load_pairs(make_pairs(made), 3)
    empty = [group for group in range(len(GROUPS)) if not evaluated(made, group)]
    assert empty
    surface = sweep_stage.surface(pairs, np.array([0.0, 1.0]), np.array([0.5]), "count", Context(work=tmp_path))
    for values in surface.values():
        assert (values[empty] == 0).all()
        assert np.isfinite(values).all()


# --- the released code's own scores


@pytest.fixture(params=["vit", "rn50"])
def golden_text(request: pytest.FixtureRequest) -> tuple[str, dict[str, NDArray[np.float32]]]:
    """Text vectors of the strings in pipeline.json, by the golden weights."""
    from tests.test_visual_golden import golden_clip

    names = {
        "vit": ("ViT-B-32-quickgelu", "clip_vit_b32", "c8e4603d"),
        "rn50": ("RN50-quickgelu", "clip_rn50", "9ccf576b"),
    }
    strings = sorted({item[key] for item in golden_items() for key in ("sentence", "noun_phrase")})
    rows = golden_clip(*names[request.param]).text_features(strings)
    return request.param, dict(zip(strings, rows, strict=True))


def golden_items() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((GOLDEN / "pipeline.json").read_text())["items"]
    return items


def test_scores_of_the_released_code(golden_text: tuple[str, dict[str, NDArray[np.float32]]]) -> None:
    """alpha 0, 0.85, 0.95 and 1: by the vectors and by their dots; the choice and its pixels."""
    mode, text = golden_text
    with np.load(GOLDEN / {"vit": "clip_vit_b32_astronaut.npz", "rn50": "clip_rn50_astronaut.npz"}[mode]) as arrays:
        n = int(arrays["n_freesolo"])
        f_g, f_l = arrays["global_b9" if mode == "vit" else "global"][:n], arrays["crop"][:n]
    with np.load(GOLDEN / "freesolo_astronaut.npz") as arrays:
        shape = tuple(arrays["pred_masks_shape"])
        masks = np.unpackbits(arrays["pred_masks"])[: np.prod(shape)].reshape(shape).astype(bool)
    with np.load(GOLDEN / "gt_masks.npz") as arrays:
        shape = tuple(arrays["astronaut_shape"])
        truths = [np.unpackbits(arrays[f"astronaut_{i}"])[: np.prod(shape)].reshape(shape).astype(bool) for i in (0, 1)]
    rule: ScoreRule = "cosine" if mode == "vit" else "unnormalised"
    checked = 0
    for item in golden_items():
        truth = next(t for t in truths if t.sum() == item["target_area"])
        t_g, t_l = text[item["sentence"]], text[item["noun_phrase"]]
        dots = Dots(
            np.array([0, n]), f_g @ t_g, f_g @ t_l, f_l @ t_g, f_l @ t_l,
            (f_g * f_g).sum(1), (f_g * f_l).sum(1), (f_l * f_l).sum(1),
            np.array([[t_g @ t_g, t_l @ t_l, t_g @ t_l]]), rule,
        )  # fmt: skip
        for result in item["results"]:
            if result["mode"] != mode:
                continue
            for scores in (
                fused_scores(f_g, f_l, t_g, t_l, result["alpha"], result["beta"], rule),
                dots.scores(result["alpha"], result["beta"]),
            ):
                np.testing.assert_allclose(scores, result["scores"], atol=0.01)
                choice = int(first_best(scores, np.array([0, n]))[0])
                assert choice in result["near_top"]
            inter, union = int((masks[choice] & truth).sum()), int((masks[choice] | truth).sum())
            if choice == result["argmax"]:
                assert (inter, union) == (result["I"], result["U"])
                assert inter / union == pytest.approx(result["iou"], rel=1e-6)
            checked += 1
    assert checked == 20
