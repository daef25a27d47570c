"""``glimpse export --format parquet``: the metrics again by pandas, scores, and what is said without pyarrow."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

from store.errors import CodeError
from store.table import read_table
from tests.helpers.oracles import overlap_of
from tests.helpers.results import MISSING, RULES, glimpse, metrics_of, results_run
from tests.helpers.stores import GROUPS, Synthetic

NAMES = [*RULES, "upper_bound"]


@pytest.fixture(scope="module", params=[{}, {"min_score": 0.5}, {"top_n": 2, "min_area": 30, "empty": "skip"}])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return results_run(tmp_path_factory.mktemp("run"), **request.param)


def exported(made: Synthetic, out: Path, *words: str) -> pandas.DataFrame:
    glimpse(made, "export", "--format", "parquet", "--out", out, *words)
    return pandas.read_parquet(out)


def test_pandas_makes_the_metrics_of_every_rule_again(made: Synthetic, tmp_path: Path) -> None:
    frame = exported(made, tmp_path / "pairs.parquet")
    names = [f"{prefix}{rule}" for prefix in ("", "second:") for rule in NAMES]
    assert {name.removeprefix("chosen.") for name in frame if name.startswith("chosen.")} == set(names)
    for name in names:
        own = frame[frame[f"chosen.{name}"] & frame[f"counted.{name}"]]
        for group, expected in metrics_of(made, name).items():
            rows = own[(own.dataset == group[0]) & (own.split == group[1])]
            assert len(rows) == expected["n"]
            if expected["n"]:
                assert rows.iou.mean() == pytest.approx(expected["miou"], abs=1e-9)
                assert rows.intersection.sum() / rows.union.sum() == pytest.approx(expected["oiou"], abs=1e-9)


def test_every_pair_is_a_row(made: Synthetic, tmp_path: Path) -> None:
    frame = exported(made, tmp_path / "pairs.parquet")
    pairs = frame[frame.proposal >= 0]
    scores, table = read_table(made.paths["scores"], "scores"), read_table(made.paths["pairs"], "pairs")
    assert len(pairs) == len(table["proposal"])
    stored = scores["score"]
    assert (pairs["score.global_local"].to_numpy()[np.isfinite(stored)] == stored[np.isfinite(stored)]).all()
    assert pairs["score.global_local"].isna().to_numpy().tolist() == (~np.isfinite(stored)).tolist()
    assert (pairs.confidence == made.scores[table["proposal"]]).all()
    assert (pairs[["x1", "y1", "x2", "y2"]].to_numpy() == made.boxes[table["proposal"]]).all()
    for e in range(len(made.ref)):
        own = frame[frame.expression_id == 1000 + e]
        image = made.image_of(e)
        assert own[own.proposal >= 0].proposal.tolist() == list(range(len(made.proposals[image])))
        assert set(own.state) == {table["expression_state"][e]}
        assert (own.dataset.iloc[0], own.split.iloc[0]) == GROUPS[made.ref_group[made.ref[e]]]
        assert ("unreadable image" in set(own.state)) == (image == MISSING)
        if made.truth[made.ref[e]] is not None:
            for row in own.itertuples():
                assert (row.intersection, row.union) == overlap_of(made, e, int(row.proposal))
    bare = frame[frame.proposal < 0]
    assert len(bare)
    assert bare.confidence.isna().all()
    assert not bare.kept.any()


def test_one_rule_and_one_split(made: Synthetic, tmp_path: Path) -> None:
    frame = exported(made, tmp_path / "a.parquet", "--rule", "second:global", "--dataset", "other")
    assert {name for name in frame if "." in name} == {f"{of}.second:global" for of in ("score", "chosen", "counted")}
    assert set(frame.dataset) == {"other"}


@pytest.mark.parametrize(
    "words",
    [("export", "--format", "parquet"), ("table", "--format", "parquet")],
)
def test_without_pyarrow_the_extra_is_named(
    made: Synthetic, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        CodeError, match=r"expected pyarrow to write Parquet, .*pip install -c constraints.txt -e '\.\[tables\]'"
    ):
        glimpse(made, *words, "--out", tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())
