"""The states of expressions from the tables to the metrics: what is lost is left out and counted, and wins nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import ablations as ablations_stage
from stages import score as score_stage
from stages.scoring.metrics import iou_of
from stages.scoring.table import load_pairs
from stages.sweep import surface
from store.errors import DataError
from store.table import read_table, write_table
from store.vectors import Vectors, write_vectors
from tests.helpers.documents import data_sets
from tests.helpers.oracles import context, fields, make_pairs, overlap_of, plain_best, plain_metrics, plain_scores
from tests.helpers.stores import TEXT_COLUMNS, Synthetic, synthetic

COLUMNS = {
    "mask_features": ["status"],
    "text_features": TEXT_COLUMNS,
}


def rewritten(made: Synthetic, name: str, **changes: dict[int, str]) -> None:
    """Change rows of text columns of a table, and write those made from it again: they must fit together."""
    for table in ("index", "proposals", "overlap", "parse", "heat_maps"):
        stored = read_table(made.paths[table], table)
        columns = dict(stored.columns)
        for key, rows in changes.items() if table == name else ():
            columns[key] = [rows.get(row, text) for row, text in enumerate(columns[key])]
        made_from = {n: read_table(made.paths[n], n, ()).digest for n in stored.attrs["made_from"]}
        attrs = {"groups": stored.attrs["groups"]} if table == "index" else {}
        write_table(made.paths[table], table, columns, {}, made_from, **attrs)
    with_features(made)


def with_features(made: Synthetic, **vectors: np.ndarray) -> Synthetic:
    """The store with other local, global (of k = 1 and 3) or text features."""
    for name, keys in (
        ("mask_features", ("view.local", "view.global.k1", "view.global.k3")),
        ("text_features", ("feature",)),
    ):
        opened = Vectors(made.paths[name], name)
        stored = {key: vectors.get(key.removeprefix("view.").replace(".", "_"), opened.rows(key)) for key in keys}
        texts = {key: opened.column(key) for key in COLUMNS[name]}
        made_from = {n: read_table(made.paths[n], n, ()).digest for n in opened.attrs["made_from"]}
        extra = {n: opened.attrs[n] for n in ("score_rule", "encoder", "images") if n in opened.attrs}
        rows, width = stored[keys[0]].shape
        blocks = {key: [value] for key, value in stored.items()}
        write_vectors(made.paths[name], name, rows, width, blocks, texts, {}, made_from, **extra)
    return replace(
        made,
        f_local=vectors.get("local", made.f_local),
        f_global={k: vectors.get(f"global_k{k}", f) for k, f in made.f_global.items()},
        text=vectors.get("feature", made.text),
    )


def scored(made: Synthetic, folder: Path, **values: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    make_pairs(made)
    paths = fields(made, score_stage, metrics=folder / "metrics.json")
    summary = score_stage.run(score_stage.Params(resamples=0, k=1, **values), paths, context(folder))
    return data_sets(paths.metrics), dict(read_table(paths.scores, "scores").columns), summary


BAD = {
    "zero": lambda size: np.zeros(size, np.float32),
    "denormal": lambda size: np.full(size, 1e-40, np.float32),
    "too short": lambda size: np.full(size, 1e-21, np.float32),
    "NaN": lambda size: np.full(size, np.nan, np.float32),
    "infinite": lambda size: np.full(size, np.inf, np.float32),
}


@pytest.mark.parametrize("rule", ["cosine", "unnormalised"])
@pytest.mark.parametrize("column", ["local", "global_k1"])
@pytest.mark.parametrize("bad", BAD)
def test_a_lost_proposal_is_never_chosen_and_the_rest_is_scored_as_before(
    tmp_path: Path, bad: str, column: str, rule: str
) -> None:
    made = synthetic(tmp_path, score_rule=rule)
    features = (made.f_local if column == "local" else made.f_global[1]).copy()
    lost = [1, 3, 8]  # of images 0 and 2
    features[lost] = BAD[bad](features.shape[1])
    metrics, scores, _ = scored(with_features(made, **{column: features}), tmp_path, alpha=0.4, beta=0.3)
    pairs = read_table(made.paths["pairs"], "pairs")
    assert set(pairs["expression_state"]) == {"", "no proposals", "no ground truth"}
    chosen: dict[int, int] = {}
    for e in range(len(made.ref)):
        start, stop = pairs["expression_offsets"][e : e + 2]
        values = plain_scores(made, e, 0.4, 0.3, rule, 1)  # type: ignore[arg-type]
        values = [-np.inf if row in lost else value for row, value in zip(made.rows_of(e), values, strict=True)]
        np.testing.assert_allclose(scores["score"][start:stop], values, rtol=1e-4, atol=1e-3)
        chosen[e] = plain_best(values)
        assert scores["chosen.global_local"][e] == chosen[e]
        for name in ("chosen.global", "chosen.cropping", "chosen.upper_bound"):
            assert scores[name][e] < 0 or made.rows_of(e)[scores[name][e]] not in lost
        kept = [p for p, row in enumerate(made.rows_of(e)) if row not in lost]
        if made.truth[made.ref[e]] is not None and kept:
            best = max(i / u if u else 0 for i, u in (overlap_of(made, e, p) for p in kept))
            at = start + scores["chosen.upper_bound"][e]
            assert float(iou_of(pairs["intersection"][at], pairs["union"][at])) == pytest.approx(best)
    for group, (dataset, split) in enumerate(read_table(made.paths["index"], "index", ()).attrs["groups"]):
        found = metrics[dataset][split]
        mine = [e for e, r in enumerate(made.ref) if made.ref_group[r] == group]
        rows = {e: chosen[e] for e in mine if made.truth[made.ref[e]] is not None}
        for key, value in plain_metrics(made, rows, "count").items():
            assert found["global_local"][key] == pytest.approx(value, rel=1e-12)
        assert found["counts"]["lost_pairs"] == sum(row in lost for e in mine for row in made.rows_of(e))
        assert found["counts"]["lost feature"] == 0


def test_the_surface_and_the_ablations_do_not_choose_lost_proposals_either(tmp_path: Path) -> None:
    made = synthetic(tmp_path)
    features = made.f_local.copy()
    features[::2] = 0
    make_pairs(with_features(made, local=features))
    pairs, _ = load_pairs(made.paths["pairs"], 1)
    params = ablations_stage.Params(k=1, alpha=0.0, beta=1.0)
    rows = ablations_stage._rows(pairs, pairs.dots.scores(0.0, 1.0), params, "x", "y")
    found = surface(pairs.filtered(params), np.array([0.0]), np.array([1.0]), "count", context(tmp_path))
    for group, row in enumerate(rows):
        members = pairs.members(group)
        values = [
            [
                -np.inf if r % 2 == 0 else v
                for r, v in zip(made.rows_of(e), plain_scores(made, e, 0, 1, "cosine", 1), strict=True)
            ]
            for e in members
        ]
        chosen = {
            int(e): plain_best(v) if np.isfinite(max(v, default=-np.inf)) else -1
            for e, v in zip(members, values, strict=True)
        }
        expected = plain_metrics(made, chosen, "count")["miou"]
        assert row["miou"] == pytest.approx(expected, rel=1e-9)
        assert found["miou"][group, 0, 0] == pytest.approx(expected, rel=1e-9)


def test_an_expression_is_lost_when_all_its_proposals_are_or_its_text_is(tmp_path: Path) -> None:
    made = synthetic(tmp_path)
    features, text = made.f_local.copy(), made.text.copy()
    features[:5] = 0  # all of image 0
    text[2] = np.nan  # the phrase or sentence of some
    metrics, scores, summary = scored(with_features(made, local=features, feature=text), tmp_path)
    states = read_table(made.paths["pairs"], "pairs", ("expression_state",))["expression_state"]
    for e, ref in enumerate(made.ref):
        if made.truth[ref] is None:
            expected = "no ground truth"
        elif made.image_of(e) == 1:
            expected = "no proposals"
        else:
            expected = "lost feature" if made.image_of(e) == 0 or 2 in made.strings[e] else ""
        assert states[e] == expected
        if expected == "lost feature":
            assert scores["chosen.global_local"][e] == -1
    counts = [split["counts"] for splits in metrics.values() for split in splits.values()]
    assert sum(c["lost feature"] for c in counts) == states.count("lost feature") > 0
    assert sum(c["n"] for c in (s["global_local"] for splits in metrics.values() for s in splits.values())) == (
        states.count("") + states.count("no proposals")
    )
    assert any("lost feature" in warning for warning in summary.warnings)


def test_four_states_and_none_is_another_ones_number(tmp_path: Path) -> None:
    """An image indexed as unreadable, one found so later, faulty sentences: none of them changes the metrics of the rest."""
    made = synthetic(tmp_path, counts=(5, 0, 12, 0, 9, 4))
    expressions = range(len(made.ref))
    blank = [e for e in expressions if made.image_of(e) == 2][:2]
    bare = [e for e in expressions if made.image_of(e) == 4][:1]
    rewritten(made, "index", image_status={0: "gone"}, expression_status=dict.fromkeys(blank, "raw: blank"))
    rewritten(made, "proposals", state={1: "unreadable image"}, status={1: "cannot be decoded"})
    rewritten(made, "parse", status=dict.fromkeys(bare, "blank sentence"))
    metrics, scores, summary = scored(made, tmp_path)
    states = read_table(made.paths["pairs"], "pairs", ("expression_state",))["expression_state"]
    for e in expressions:
        if made.image_of(e) in (0, 1):
            expected = "unreadable image"
        elif e in blank or e in bare:
            expected = "faulty sentence"
        elif made.truth[made.ref[e]] is None:
            expected = "no ground truth"
        else:
            expected = "no proposals" if made.image_of(e) == 3 else ""
        assert states[e] == expected
    assert set(states) == {"", "unreadable image", "faulty sentence", "no ground truth", "no proposals"}
    for group, (dataset, split) in enumerate(read_table(made.paths["index"], "index", ()).attrs["groups"]):
        mine = [e for e in expressions if made.ref_group[made.ref[e]] == group]
        kept = {e: int(scores["chosen.global_local"][e]) for e in mine if states[e] in ("", "no proposals")}
        found = metrics[dataset][split]
        for key, value in plain_metrics(made, kept, "count").items():
            assert found["global_local"][key] == pytest.approx(value, rel=1e-12), key
        counts = found["counts"]
        for state in set(states) - {""}:
            assert counts[state] == sum(states[e] == state for e in mine)
        assert counts["no_choice"] == counts["no proposals"]
        assert counts["not_evaluated"] == len(mine) - len(kept)
        assert counts["images_without_proposals"] == len({3} & {made.image_of(e) for e in mine})
        left = len(mine) - len(kept)
        said = f"{dataset} {split}: expressions left out of the metrics: {left} of {len(mine)} ("
        assert any(warning.startswith(said) for warning in summary.warnings) == bool(left)


def test_no_expression_that_can_be_evaluated_is_an_error(tmp_path: Path) -> None:
    made = synthetic(tmp_path)
    rewritten(made, "index", image_status=dict.fromkeys(range(5), "gone"))
    with pytest.raises(
        DataError, match=r"none of \d+ expressions can be used: \d+ x unreadable image, such as expression 0: gone"
    ):
        make_pairs(made)
    assert not made.paths["pairs"].exists()
