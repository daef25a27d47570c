"""Encoders side by side: each scored from its own pair table, the metrics and choices under its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import pair as pair_stage
from stages import score as score_stage
from stages.scoring.metrics import metrics_by_encoder
from store.document import read_document
from store.errors import ParameterError, StoreError
from store.table import read_table
from store.vectors import Vectors, write_vectors
from tests.helpers.oracles import context, fields, make_pairs, plain_best, plain_scores
from tests.helpers.stores import TEXT_COLUMNS, Synthetic, synthetic

OTHER = {"architecture": "other", "backbone": "resnet", "model": "other", "weights": "1" * 64, "precision": "float32"}


def second_encoder(made: Synthetic, folder: Path, seed: int = 5) -> Synthetic:
    """The same store embedded by another encoder: other vectors, a width of 6, no view but global and local."""
    rng = np.random.default_rng(seed)
    n, dim = len(made.f_local), 6
    masks, text = (Vectors(made.paths[f"{side}_features"], f"{side}_features") for side in ("mask", "text"))
    local = rng.normal(0, 2, (n, dim)).astype(np.float32)
    by_k = {k: rng.normal(0, 2, (n, dim)).astype(np.float32) for k in made.f_global}
    strings = rng.normal(0, 2, (len(made.text), dim)).astype(np.float32)
    paths = {**made.paths, **{f: folder / f"{f}/second" for f in ("mask_features", "text_features")}}
    paths["pairs"] = made.paths["pairs"].with_stem("second")
    columns = {"view.local": [local], **{f"view.global.k{k}": [rows] for k, rows in by_k.items()}}
    attrs = {"score_rule": "unnormalised", "encoder": OTHER}
    write_vectors(paths["mask_features"], "mask_features", n, dim, columns, {"status": [""] * n}, {},
                  masks.attrs["made_from"], **attrs)  # fmt: skip
    named = {name: text.column(name) for name in TEXT_COLUMNS}
    write_vectors(paths["text_features"], "text_features", len(strings), dim, {"feature": [strings]}, named, {},
                  text.attrs["made_from"], encoder=OTHER)  # fmt: skip
    inputs = {name: path for name, path in paths.items() if name in pair_stage.Paths.model_fields}
    pair_stage.run(pair_stage.Params(), pair_stage.Paths(**inputs), context(folder))
    other = {"f_global": by_k, "f_local": local, "others": {}, "text": strings, "paths": paths}
    return Synthetic(**{**made.__dict__, **other})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Synthetic, Synthetic]:
    folder = tmp_path_factory.mktemp("encoders")
    first = synthetic(folder, others=("score_map",))
    make_pairs(first)
    return first, second_encoder(first, folder)


def run(made: Synthetic, folder: Path, **values: Any) -> tuple[score_stage.Params, Any, Any, list[str]]:
    params = score_stage.Params(**{"encoder": "vit", "alpha": 0.6, "beta": 0.3, "resamples": 0, **values})
    paths = fields(made, score_stage, metrics=folder / "metrics.json").model_copy(update={"scores": folder / "s.h5"})
    summary = score_stage.run(params, paths, context(folder))
    return (
        params,
        read_document(folder / "metrics.json", "score"),
        read_table(folder / "s.h5", "scores"),
        summary.skipped,
    )


def test_each_encoder_is_scored_from_its_own_vectors(made: tuple[Synthetic, Synthetic], tmp_path: Path) -> None:
    first, second = made
    _, document, scores, _ = run(first, tmp_path, alpha_by_encoder={"second": 0.2})
    for prefix, store, alpha, rule in (("", first, 0.6, "cosine"), ("second:", second, 0.2, "unnormalised")):
        for expression in range(len(first.ref)):
            expected = plain_best(plain_scores(store, expression, alpha, 0.3, rule, 3))  # type: ignore[arg-type]
            assert scores[f"chosen.{prefix}global_local"][expression] == expected
    by_encoder = metrics_by_encoder(document)
    assert list(by_encoder) == ["", "second"]
    assert document["toy"]["val"]["upper_bound"] == document["second"]["toy"]["val"]["upper_bound"]
    assert document["run"]["encoder"]["architecture"] == "toy"
    assert {name: e["architecture"] for name, e in document["run"]["encoders"].items()} == {
        "vit": "toy",
        "second": "other",
    }


def test_the_main_encoders_numbers_do_not_depend_on_the_others(
    made: tuple[Synthetic, Synthetic], tmp_path: Path
) -> None:
    both = run(made[0], tmp_path / "both")[1]
    folder = tmp_path / "alone"
    alone = made[0].paths["pairs"]
    (folder / "pairs").mkdir(parents=True)
    (folder / "pairs/vit.h5").write_bytes(alone.read_bytes())
    moved = Synthetic(**{**made[0].__dict__, "paths": {**made[0].paths, "pair_tables": folder / "pairs"}})
    assert metrics_by_encoder(run(moved, folder)[1])[""] == metrics_by_encoder(both)[""]


def test_a_rule_that_an_encoder_cannot_serve_is_left_out_and_said(
    made: tuple[Synthetic, Synthetic], tmp_path: Path
) -> None:
    _, document, _, left_out = run(made[0], tmp_path, enabled=["global_local", "score_map"])
    main, other = metrics_by_encoder(document).values()
    assert all("score_map" in rules for splits in main.values() for rules in splits.values())
    assert not any("score_map" in rules for splits in other.values() for rules in splits.values())
    assert left_out == ["encoder second has no view for the rules score_map: not scored for it"]


@pytest.mark.parametrize("name", ["nobody", "vit"])
def test_alpha_by_encoder_names_another_encoder(made: tuple[Synthetic, Synthetic], tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ParameterError, match=f"alpha_by_encoder: no encoder '{name}' beside the main one; .*known: second"
    ):
        run(made[0], tmp_path, alpha_by_encoder={name: 0.5})


def test_a_main_encoder_without_a_table_is_an_error(made: tuple[Synthetic, Synthetic], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected the pair table of encoder 'vti'; did you mean 'vit'"):
        run(made[0], tmp_path, encoder="vti")


def test_tables_of_other_proposals_are_refused(made: tuple[Synthetic, Synthetic], tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    for store, name in ((made[0], "vit"), (synthetic(tmp_path / "elsewhere", seed=9), "second")):
        if name == "second":
            make_pairs(store)
        (tmp_path / f"pairs/{name}.h5").write_bytes(store.paths["pairs"].read_bytes())
    moved = Synthetic(**{**made[0].__dict__, "paths": {**made[0].paths, "pair_tables": tmp_path / "pairs"}})
    with pytest.raises(StoreError, match="expected the expressions and proposals of the main encoder's table"):
        run(moved, tmp_path)


def test_a_rule_that_no_encoder_serves_is_an_error(made: tuple[Synthetic, Synthetic], tmp_path: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"rule region_token: needs view 'region_token', which .*vit\.h5 does not hold"
    ):
        run(made[0], tmp_path, enabled=["global_local", "region_token"])
