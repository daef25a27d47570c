"""Products of other noun phrases and caption banks, and the columns of places and relations, against direct products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.scoring.geometry import geometry_of
from store.segmentation import encode
from store.table import read_table
from store.vectors import Vectors, write_vectors
from tests.helpers.oracles import RULES, dot, make_pairs, store_with_pairs, unit
from tests.helpers.stores import ENCODER, GROUPS, TEXT_COLUMNS, Synthetic, synthetic

made = pytest.fixture(scope="module", params=RULES[:1])(store_with_pairs)


def views_of(made: Synthetic) -> dict[str, np.ndarray]:
    return {"local": made.f_local, **{f"global.k{k}": features for k, features in made.f_global.items()}}


def test_other_phrases(made: Synthetic) -> None:
    table = read_table(made.paths["pairs"], "pairs")
    place = 0
    for e, phrases in enumerate(made.phrases):
        start, stop = table["other_offsets"][e : e + 2]
        assert stop - start == len(phrases)
        total = np.sum([made.text[row] for row in phrases] or [np.zeros(8)], 0)
        assert table["other_sum_product"][e] == pytest.approx(dot(total, total), rel=1e-5)
        for x, row in enumerate(phrases):
            q = made.text[row]
            assert table["other_product"][start + x] == pytest.approx(dot(q, q), rel=1e-5)
            for proposal in made.rows_of(e):
                for view, features in views_of(made).items():
                    assert table[f"other_dot.{view}"][place] == pytest.approx(
                        dot(features[proposal], q), rel=1e-4, abs=1e-4
                    )
                place += 1
    assert place == len(table["other_dot.local"]) > 50


def test_banks_are_means_of_distinct_sentences(made: Synthetic) -> None:
    table = read_table(made.paths["pairs"], "pairs")
    for group in range(len(GROUPS)):
        own = {s for (s, _), ref in zip(made.strings, made.ref, strict=True) if made.ref_group[ref] == group}
        bank = np.mean([unit(made.text[s]) for s in own], 0)
        for view, features in views_of(made).items():
            found = table[f"bank_dot.{view}"]
            assert found.shape == (len(made.scores), len(GROUPS))
            np.testing.assert_allclose(found[:, group], features @ bank, rtol=1e-4, atol=1e-4)


def test_places_and_relations_are_those_of_parse(made: Synthetic) -> None:
    table, parse = read_table(made.paths["pairs"], "pairs"), read_table(made.paths["parse"], "parse")
    for name in ("position", "ordinal", "hybrid"):
        np.testing.assert_array_equal(table[f"expression_{name}"], parse[name])
    for name in ("relation_offsets", "relation"):
        np.testing.assert_array_equal(table[name], parse[name])


def test_geometry(made: Synthetic) -> None:
    table = read_table(made.paths["pairs"], "pairs")
    for image, masks in enumerate(made.proposals):
        own = slice(*made.image_offsets[image : image + 2])
        centroid, prior = geometry_of(encode(masks), *masks.shape[1:])
        np.testing.assert_array_equal(table["proposal_centroid"][own], centroid)
        np.testing.assert_array_equal(table["proposal_prior"][own], prior)
        assert (table["proposal_size"][own] == masks.shape[1:]).all()


def test_a_lost_phrase_or_mask_has_no_products(tmp_path: Path) -> None:
    """A NaN would reach every rule that reads the column; here the phrase is left out, and the mask never chosen."""
    made = synthetic(tmp_path)
    text, masks = made.paths["text_features"], made.paths["mask_features"]
    opened, lost = Vectors(text, "text_features"), made.text.copy()
    lost[3] = np.nan
    names = TEXT_COLUMNS
    columns = {name: opened.column(name) for name in names}
    columns["sentence_string"] = columns["phrase_string"] = np.zeros(len(made.ref), np.int64)
    made_from = opened.attrs["made_from"]
    write_vectors(
        text, "text_features", *lost.shape, {"feature": [lost]}, columns, {}, made_from, encoder=ENCODER
    )  # fmt: skip
    held = Vectors(masks, "mask_features")
    local, rest = made.f_local.copy(), made.f_global
    local[4] = np.inf
    write_vectors(
        masks, "mask_features", *local.shape,
        {"view.local": [local], **{f"view.global.k{k}": [f] for k, f in rest.items()}},
        {"status": held.column("status")}, {}, held.attrs["made_from"],
        **{name: held.attrs[name] for name in ("score_rule", "encoder")},
    )  # fmt: skip
    table = read_table(make_pairs(made), "pairs")
    phrases = [row for rows in made.phrases for row in rows]
    assert 3 in phrases
    assert [bool(square) for square in table["other_product"]] == [row != 3 for row in phrases]
    assert not table["bank_dot.local"][4].any()
    for view in views_of(made):
        assert np.isfinite(table[f"other_dot.{view}"]).all()
        assert np.isfinite(table[f"bank_dot.{view}"]).all()
    rows = np.concatenate([list(made.rows_of(e)) * len(made.phrases[e]) for e in range(len(made.ref))]).astype(int)
    owners = np.concatenate([np.repeat(made.phrases[e], len(made.rows_of(e))) for e in range(len(made.ref))])
    zero = (rows == 4) | (owners == 3)
    assert zero.any()
    np.testing.assert_array_equal(table["other_dot.local"] == 0, zero)
