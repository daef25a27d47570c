"""From vectors to scores and the best of each segment: against plain loops and the released code's own scores."""

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

from stages.scoring.fusion import Dots, first_best, fused_scores
from stages.scoring.score_rule import ScoreRule
from store.ragged import offsets_of
from tests.helpers.oracles import RULES, dot, plain_best, plain_score

GOLDEN = Path(__file__).parents[1] / "golden"
GRID = [0.0, 0.15, 0.5, 0.85, 0.95, 1.0]


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


# --- the released code's own scores


@pytest.fixture(params=["vit", "rn50"])
def golden_text(request: pytest.FixtureRequest) -> tuple[str, dict[str, NDArray[np.float32]]]:
    """Text vectors of the strings in pipeline.json, by the golden weights."""
    from tests.visual.test_visual_golden import golden_clip

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
