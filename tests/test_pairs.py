"""The pair stage: every dot of the table against direct products, in any blocks, of one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages import pairs as pair_stage
from store.errors import StoreError
from store.table import read_table, write_table
from store.vectors import Vectors, write_vectors
from tests.oracles import RULES, context, dot, fields, make_pairs, overlap_of, store_with_pairs
from tests.stores import CUT, GROUPS, Synthetic, synthetic

made = pytest.fixture(scope="module", params=RULES)(store_with_pairs)


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
