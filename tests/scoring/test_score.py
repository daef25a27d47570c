"""The score stage: chosen masks and metrics against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages import score as score_stage
from stages.scoring.comparison import Both, compared
from stages.scoring.metrics import Empty
from stages.scoring.score_rule import ScoreRule
from stages.scoring.table import Filters, load_pairs
from store.table import read_table
from tests.helpers.documents import data_sets
from tests.helpers.oracles import (
    RULES,
    context,
    evaluated,
    fields,
    kept_positions,
    overlap_of,
    plain_best,
    plain_metrics,
    plain_scores,
    rule_of,
    store_with_pairs,
)
from tests.helpers.stores import CUT, GROUPS, Synthetic

made = pytest.fixture(scope="module", params=RULES)(store_with_pairs)
rule = pytest.fixture(scope="module")(rule_of)


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
    metrics = data_sets(tmp_path / "metrics.json")

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
    assert table["chosen.global_local"].tolist() == list(chosen["global_local"].values())
    for name in ("global", "cropping"):
        assert table[f"chosen.{name}"].tolist() == list(chosen[name].values())
    for e, position in chosen["upper_bound"].items():
        assert table["chosen.upper_bound"][e] == position
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
            counted = [e for e in rows if empty == "count" or by_expression[e] >= 0]
            assert ("oiou_ci" in found[name]) == (len({made.image_of(e) for e in counted}) > 1)
            if "oiou_ci" in found[name]:
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
            "lost_pairs": 0,
            "not_evaluated": len(every) - len(rows),
            "no_choice": sum(chosen["global_local"][e] < 0 for e in rows),
            "unreadable image": 0,
            "faulty sentence": 0,
            "lost feature": 0,
            "no ground truth": len(every) - len(rows),
            "not annotated": 0,
            "no proposals": sum(not len(made.rows_of(e)) for e in rows),
        }


@pytest.mark.parametrize("empty", ["count", "skip"])
def test_every_rule_is_compared_with_the_first(made: Synthetic, empty: Empty) -> None:
    """By the outcomes of the choices themselves; not the references, and nothing without resamples."""
    pairs, _ = load_pairs(made.paths["pairs"], 3)
    params = score_stage.Params(enabled=["global", "global_local", "cropping"], resamples=80, seed=3, empty=empty)
    chosen = score_stage.choose(pairs, score_stage.rule_scores(pairs, params), params)
    metrics = score_stage.metrics_of(pairs, params, chosen)
    for group, (dataset, split) in enumerate(GROUPS):
        found, rows = metrics[dataset][split], pairs.members(group)
        told = {rule for rule, values in found.items() if "versus" in values}
        if not told:  # one image says nothing about others
            decided = pairs.outcome(chosen["global"]).decided & pairs.outcome(chosen["cropping"]).decided
            assert empty == "skip"
            assert len(np.unique(pairs.image[rows[decided[rows]]])) == 1
            continue
        assert told == {"global_local", "cropping"}
        for rule in ("global_local", "cropping"):
            a, b = (pairs.outcome(chosen[name]).at(rows) for name in (rule, "global"))
            expected = compared(Both(a, b, pairs.image[rows]).counted(empty), 80, 3)["miou"]
            got = found[rule]["versus"]
            assert got["rule"] == "global"
            assert got["miou"] == pytest.approx(expected["difference"], abs=1e-12)
            assert got["miou"] == pytest.approx(found[rule]["miou"] - found["global"]["miou"], abs=1e-11)
            assert got["miou_ci"] == expected["ci"]
            assert got["p"] == expected["p"]


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
    chosen = score_stage.choose(pairs, score_stage.rule_scores(pairs, params), params)
    metrics = score_stage.metrics_of(pairs, params, chosen)
    assert "oiou_ci" not in metrics["toy"]["val"]["global_local"]
    assert "versus" not in metrics["toy"]["val"]["cropping"]
