"""The pair stage: every dot of the table against direct products, in any blocks, of one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import overlap as overlap_stage
from stages import pair as pair_stage
from stages.scoring import products
from stages.scoring.table import Columns
from store.errors import StoreError
from store.ragged import offsets_of
from store.table import read_table, write_table
from store.vectors import Vectors, write_vectors
from tests.helpers.oracles import RULES, context, dot, fields, make_pairs, overlap_of, store_with_pairs
from tests.helpers.stores import CUT, ENCODER, GROUPS, TEXT_COLUMNS, Synthetic, synthetic

made = pytest.fixture(scope="module", params=RULES)(store_with_pairs)


def test_pair_table_against_direct_products(made: Synthetic) -> None:
    table = read_table(made.paths["pairs"], "pairs")
    offsets = table["expression_offsets"]
    assert Columns(made.paths["pairs"]).ks() == sorted(made.f_global)
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
            [table[f"text_product.{two}"][e] for two in ("sentence*sentence", "phrase*phrase", "phrase*sentence")],
            [dot(sentence, sentence), dot(phrase, phrase), dot(sentence, phrase)],
            rtol=1e-5,
            atol=1e-4,
        )
        assert range(offsets[e], offsets[e + 1]) == range(offsets[e], offsets[e] + len(made.rows_of(e)))
        for position, row in enumerate(made.rows_of(e)):
            local, pair = made.f_local[row], offsets[e] + position
            mask = made.proposals[made.image_of(e)][position]
            assert table["proposal"][pair] == row
            assert table["proposal_score"][row] == made.scores[row]
            assert table["proposal_area"][row] == mask.sum()
            np.testing.assert_array_equal(table["proposal_box"][row], made.boxes[row])
            if made.truth[ref] is not None:
                assert (table["intersection"][pair], table["union"][pair]) == overlap_of(made, e, position)
            views = {"local": local, **{f"global.k{k}": features[row] for k, features in made.f_global.items()}}
            for view, f in views.items():
                for text, t in (("sentence", sentence), ("phrase", phrase)):
                    assert table[f"dot.{view}*{text}"][pair] == pytest.approx(dot(f, t), rel=1e-5, abs=1e-4)
                for other, g in views.items():
                    product = table[f"view_product.{'*'.join(sorted((view, other)))}"][row]
                    assert product == pytest.approx(dot(f, g), rel=1e-5, abs=1e-4)


def test_pair_stage_reads_in_any_blocks(made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are read a shard at a time; images are never torn, also those larger than a shard, or without proposals."""
    for shard_rows in (1, 5, 10, 14):
        monkeypatch.setattr(products, "SHARD_ROWS", shard_rows)
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
            "mask_features": ("view.local", ["status"]),
            "text_features": (
                "feature",
                TEXT_COLUMNS,
            ),
        }[consumer]
        rows, columns = opened.rows(name), {other: opened.column(other) for other in others}
        write_vectors(path, consumer, *rows.shape, {name: [rows]}, columns, {}, made_from)  # type: ignore[arg-type]
    else:
        table = read_table(path, consumer)
        write_table(path, consumer, table.columns, {}, {**table.attrs["made_from"], source: "0" * 64})
    with pytest.raises(StoreError, match=rf"pair: {path} was made from another {source} than .*glimpse repair {path}$"):
        make_pairs(made)
    assert not made.paths["pairs"].exists()


def test_overlap_refuses_proposals_of_another_index(tmp_path: Path) -> None:
    made = synthetic(tmp_path)
    table = read_table(made.paths["proposals"], "proposals")
    write_table(made.paths["proposals"], "proposals", table.columns, {}, {"index": "0" * 64})
    with pytest.raises(
        StoreError, match=rf"overlap: {made.paths['proposals']} was made from another index than .*glimpse repair"
    ):
        overlap_stage.run(overlap_stage.Params(), fields(made, overlap_stage), context(tmp_path))


class Held:
    """Vectors in memory that are read as those of the store."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns = columns

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.columns[name][start:stop]

    def column(self, name: str) -> np.ndarray:
        return self.columns[name]

    def members(self, family: str) -> list[str]:
        return sorted(name.removeprefix(f"{family}.") for name in self.columns if name.startswith(f"{family}."))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20),
    st.sampled_from([1, 3, 8, 33, 512]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_compiled_products_against_numpy(images: list[tuple[int, int]], width: int, seed: int) -> None:
    """Any numbers of proposals and expressions of an image, expressions in any order, any width."""
    rng = np.random.default_rng(seed)
    image_offsets = offsets_of([proposals for proposals, _ in images])
    image = rng.permutation(np.repeat(np.arange(len(images)), [expressions for _, expressions in images]))
    names = ("local", "global.k1", "global.k3")
    masks = {f"view.{name}": rng.normal(size=(image_offsets[-1], width)).astype(np.float32) for name in names}
    strings = rng.integers(0, 7, (2, len(image)))
    vectors = rng.normal(size=(7, width)).astype(np.float32)
    text = {"feature": vectors, "sentence_string": strings[0], "phrase_string": strings[1]}
    rows = [np.arange(image_offsets[i], image_offsets[i + 1]) for i in image]
    proposal = np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int64)
    found = products.product_columns(Held(masks), Held(text), image_offsets, image, context(Path()))  # type: ignore[arg-type]
    owner = np.repeat(np.arange(len(image)), [len(own) for own in rows])
    texts = {"sentence": vectors[strings[0]], "phrase": vectors[strings[1]]}
    expected = {}
    for view in names:
        for text_name, t in texts.items():
            expected[f"dot.{view}*{text_name}"] = masks[f"view.{view}"][proposal] * t[owner]
        for other in names:
            own = "*".join(sorted((view, other)))
            expected[f"view_product.{own}"] = masks[f"view.{view}"] * masks[f"view.{other}"]
    for one, t in texts.items():
        for other, u in texts.items():
            expected[f"text_product.{'*'.join(sorted((one, other)))}"] = t * u
    assert found.keys() == expected.keys()
    for name, terms in expected.items():
        magnitude = np.abs(terms).sum(1, dtype=np.float64)
        assert (np.abs(found[name] - terms.sum(1, dtype=np.float64)) <= 1e-6 * magnitude).all(), name


def test_masks_and_texts_of_two_encoders_are_refused(tmp_path: Path) -> None:
    """Their products would be numbers that mean nothing, whatever differs; so would those of two widths."""
    for place, (name, value) in enumerate(
        [
            ("weights", "1" * 64),
            ("model", "other"),
            ("precision", "bf16"),
            ("architecture", "other"),
            ("backbone", "resnet"),
        ]
    ):
        made = synthetic(tmp_path / str(place), encoder={**ENCODER, name: value})
        with pytest.raises(StoreError, match=rf"one encoder, got two: {name} .*dvc repro"):
            make_pairs(made)
        assert not made.paths["pairs"].exists()
    with pytest.raises(StoreError, match=r"mask_features/vit does not say which encoder made it.*dvc repro"):
        make_pairs(synthetic(tmp_path / "unsaid", encoder={}))


def test_vectors_of_two_widths_are_refused(tmp_path: Path) -> None:
    made = synthetic(tmp_path)
    opened = Vectors(made.paths["text_features"], "text_features")
    columns = {name: opened.column(name) for name in TEXT_COLUMNS}
    rows = opened.rows("feature")[:, :4]
    attrs = opened.attrs
    write_vectors(
        made.paths["text_features"], "text_features", *rows.shape, {"feature": [rows]}, columns, {}, attrs["made_from"],
        encoder=attrs["encoder"],
    )  # fmt: skip
    with pytest.raises(StoreError, match=r"one width, got 8 numbers for a mask in .* and 4 for a text.*dvc repro"):
        make_pairs(made)
