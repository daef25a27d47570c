"""A small synthetic store, written with the store's own writers: what stages read, and the dense arrays behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.registry import FILES
from stages.parse import spatial_columns
from stages.text.relations import Spatial
from stages.text.words import KINDS, POSITIONS
from store.ragged import Bytes, offsets_of
from store.schema import TEXT_FEATURES
from store.segmentation import encode
from store.table import Table, write_table
from store.vectors import write_vectors

GROUPS = [("toy", "val"), ("toy", "testA"), ("other", "val")]
STRINGS = ["a red ball", "ball", "the café on the left", "left", "a very long sentence"]
ENCODER = {"architecture": "toy", "backbone": "vit", "model": "toy", "weights": "0" * 64, "precision": "float32"}
_FIELDS = [field for field, file in FILES.items() if field not in ("variants", "ablations", "grid", "report")]
TEXT_COLUMNS = tuple(name for name in TEXT_FEATURES.columns if name != "feature")
"""What stands beside the vectors of texts."""
CUT = 4
"""The row of ``STRINGS`` that counts as truncated."""


@dataclass(frozen=True)
class Synthetic:
    """Everything in memory: dense masks, raw vectors, and for each expression its ref, image, group and strings.

    Attributes:
        paths: field name of the stages' ``Paths`` -> file; only ``pairs`` and what comes after it is not written.
        proposals: bool (n, H, W) of each image. truth: bool (H, W) of each ref, None where it has no ground truth.
        ref_image, ref_group, ref: int lists. strings: (sentence, phrase) rows of each expression.
        f_global: k -> (N, D). f_local (N, D). others: label of a further view -> (N, D).
        text (S, D). scores, boxes, image_offsets as stored. phrases: rows of the other phrases of each expression.
        class_names: rows of the class names.
        spatial: of each expression what stage parse says of relations and places.
    """

    paths: dict[str, Path]
    proposals: list[NDArray[np.bool_]]
    truth: list[NDArray[np.bool_] | None]
    ref_image: list[int]
    ref_group: list[int]
    ref: list[int]
    strings: list[tuple[int, int]]
    f_global: dict[int, NDArray[np.float32]]
    f_local: NDArray[np.float32]
    others: dict[str, NDArray[np.float32]]
    text: NDArray[np.float32]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    image_offsets: NDArray[np.int64]
    phrases: list[list[int]]
    class_names: list[int]
    spatial: list[Spatial]

    def image_of(self, expression: int) -> int:
        return self.ref_image[self.ref[expression]]

    def rows_of(self, expression: int) -> range:
        """The proposals of the expression's image."""
        image = self.image_of(expression)
        return range(int(self.image_offsets[image]), int(self.image_offsets[image + 1]))


def synthetic(
    folder: Path,
    seed: int = 0,
    counts: tuple[int, ...] = (5, 0, 12, 1, 9),
    ks: tuple[int, ...] = (1, 3),
    others: tuple[str, ...] = (),
    class_names: tuple[int, ...] = (1, 3, 4),
    maps: tuple[str, ...] = (),
    **attrs: Any,
) -> Synthetic:
    """Write a store below ``folder``: images with ``counts`` proposals each, three refs an image, up to three
    expressions a ref in shuffled groups; the last ref has no ground truth, and one image may have no proposal. ``others``
    are labels of views besides global and local; in each of these the vector of every seventh mask is 0. ``maps`` are kinds
    of heat maps, whose means are any numbers; every fifth pair has none."""
    rng = np.random.default_rng(seed)
    sizes = [tuple(int(s) for s in rng.integers(5, 11, 2)) for _ in counts]
    proposals = [
        rng.random((n, *size)) < rng.uniform(0.1, 0.9, (n, 1, 1)) for n, size in zip(counts, sizes, strict=True)
    ]
    ref_image = [int(i) for i in rng.permutation(np.repeat(np.arange(len(counts)), 3))]
    truth: list[NDArray[np.bool_] | None] = [rng.random(sizes[i]) < 0.5 for i in ref_image]
    truth[-1] = None
    ref = [r for r in range(len(ref_image)) for _ in range(1 + r % 3)]
    total, dim = sum(counts), 8
    made = Synthetic(
        paths={field: folder / FILES[field].format(encoder="vit") for field in _FIELDS},
        proposals=proposals,
        truth=truth,
        ref_image=ref_image,
        ref_group=[int(g) for g in rng.integers(0, len(GROUPS), len(ref_image))],
        ref=ref,
        strings=[(int(s), int(p)) for s, p in rng.integers(0, len(STRINGS), (len(ref), 2))],
        f_global={k: rng.normal(1, 3, (total, dim)).astype(np.float32) for k in ks},
        f_local=rng.normal(0, 3, (total, dim)).astype(np.float32),
        others={},
        text=rng.normal(0, 2, (len(STRINGS), dim)).astype(np.float32),
        scores=np.sort(rng.random(total))[::-1].astype(np.float32),
        boxes=rng.uniform(0, 10, (total, 4)).astype(np.float32),
        image_offsets=offsets_of(counts),
        phrases=[],
        class_names=list(class_names),
        spatial=[],
    )
    for _ in ref:
        made.phrases.append([int(row) for row in rng.integers(0, len(STRINGS), rng.integers(0, 3))])
        made.spatial.append(_spatial(rng, len(made.phrases[-1])))
    for label in others:
        made.others[label] = rng.normal(0, 2, (total, dim)).astype(np.float32)
        made.others[label][3::7] = 0
    index = _write_index(made, sizes)
    stored = _write_proposals(made, index)
    _write_overlap(made, index, stored)
    parse = _write_features(made, index, stored, {"score_rule": "cosine", "encoder": ENCODER, **attrs})
    _write_heat_maps(made, {"index": index.digest, "proposals": stored.digest, "parse": parse.digest}, maps, rng)
    return made


def _spatial(rng: np.random.Generator, phrases: int) -> Spatial:
    """Any relations between the target and ``phrases`` other phrases, places and ordinals."""
    relations = tuple(
        (int(rng.integers(-1, phrases)), int(rng.integers(len(KINDS))), *rng.integers(-1, phrases, 2).tolist())
        for _ in range(rng.integers(0, 4))
    )
    ordinal = (int(rng.integers(1, 4)), int(rng.choice([0, 1, 3, 4]))) if rng.random() < 0.5 else (0, -1)
    return Spatial(
        relations,
        tuple((rng.random(len(POSITIONS)) < 0.3).tolist()),
        ordinal,
        (int(rng.integers(-1, len(KINDS) - 1)), int(rng.integers(-1, len(POSITIONS)))),
    )


def _write_index(made: Synthetic, sizes: list[tuple[int, ...]]) -> Table:
    refs, images = len(made.truth), len(sizes)
    columns = {
        "image_name": [f"bild_{i}_é.png" for i in range(images)],
        "image_size": np.array(sizes, np.int32),
        "image_digest": [f"{i:064x}" for i in range(images)],
        "image_status": [""] * images,
        "image_id": np.arange(images),
        "instance_offsets": np.zeros(images + 1, np.int64),
        "instance_mask": [],
        "ref_id": np.arange(refs) + 100,
        "ref_image": np.array(made.ref_image),
        "ref_group": np.array(made.ref_group, np.int32),
        "ref_category": ["thing"] * refs,
        "ref_mask": [b"" if m is None else encode(m[None])[0] for m in made.truth],
        "ref_status": ["no ground truth" if m is None else "" for m in made.truth],
        "expression_id": np.arange(len(made.ref)) + 1000,
        "expression_ref": np.array(made.ref),
        "expression_raw": [STRINGS[s].title() for s, _ in made.strings],
        "expression_status": [""] * len(made.ref),
    }
    return write_table(made.paths["index"], "index", columns, {}, {}, groups=GROUPS)


def _write_proposals(made: Synthetic, index: Table) -> Table:
    columns = {
        "image_offsets": made.image_offsets,
        "mask": Bytes.of(counts for masks in made.proposals for counts in encode(masks)),
        "box": made.boxes,
        "score": made.scores,
        "area": np.array([m.sum() for masks in made.proposals for m in masks], np.int64),
        "status": ["" if len(masks) else "nothing found" for masks in made.proposals],
        "state": ["" if len(masks) else "no proposals" for masks in made.proposals],
    }
    return write_table(made.paths["proposals"], "proposals", columns, {}, {"index": index.digest})


def _write_overlap(made: Synthetic, index: Table, proposals: Table) -> Table:
    pairs = [(m, t) for t, i in zip(made.truth, made.ref_image, strict=True) for m in made.proposals[i]]
    columns = {
        "ref_offsets": offsets_of(len(made.proposals[i]) for i in made.ref_image),
        "intersection": np.array([0 if t is None else (m & t).sum() for m, t in pairs], np.int64),
        "union": np.array([0 if t is None else (m | t).sum() for m, t in pairs], np.int64),
        "ref_area": np.array([0 if t is None else t.sum() for t in made.truth], np.int64),
    }
    made_from = {"index": index.digest, "proposals": proposals.digest}
    return write_table(made.paths["overlap"], "overlap", columns, {}, made_from)


def _write_features(made: Synthetic, index: Table, proposals: Table, attrs: dict[str, Any]) -> Table:
    expressions, empty = len(made.ref), [""] * len(made.ref)
    parsed = {
        "sentence": [STRINGS[s] for s, _ in made.strings],
        "noun_phrase": [STRINGS[p] for _, p in made.strings],
        "other_phrases": [json.dumps([STRINGS[row] for row in rows]) for rows in made.phrases],
        **{name: ["[]"] * expressions for name in ("position_words", "relation_words")},
        **spatial_columns([own._asdict() for own in made.spatial]),
        "status": empty,
    }
    parse = write_table(made.paths["parse"], "parse", parsed, {}, {"index": index.digest})
    vectors = {"view.local": [made.f_local], **{f"view.global.k{k}": [f] for k, f in made.f_global.items()}}
    vectors |= {f"view.{label}": [f] for label, f in made.others.items()}
    total, dim = made.f_local.shape
    write_vectors(
        made.paths["mask_features"],
        "mask_features",
        total,
        dim,
        vectors,
        {"status": [""] * total},
        {},
        {"proposals": proposals.digest},
        **attrs,
    )
    columns = {
        "string": STRINGS,
        "truncated": np.arange(len(STRINGS)) == CUT,
        "sentence_string": np.array([s for s, _ in made.strings]),
        "phrase_string": np.array([p for _, p in made.strings]),
        "other_offsets": offsets_of(map(len, made.phrases)),
        "other_string": np.array([row for rows in made.phrases for row in rows], np.int64),
        "class_string": np.array(made.class_names, np.int64),
    }
    write_vectors(
        made.paths["text_features"],
        "text_features",
        len(STRINGS),
        dim,
        {"feature": [made.text]},
        columns,
        {},
        {"parse": parse.digest},
        encoder=ENCODER,
    )
    return parse


def _write_heat_maps(
    made: Synthetic, made_from: dict[str, str], kinds: tuple[str, ...], rng: np.random.Generator
) -> None:
    """Heat maps of which only the means are there: one phrase for each expression."""
    counts, number = [len(made.rows_of(e)) for e in range(len(made.ref))], len(made.ref)
    columns: dict[str, Any] = {
        "expression_offsets": offsets_of(counts),
        "expression_phrase": np.arange(number),
        "phrase_image": np.array([made.image_of(e) for e in range(number)]),
        "phrase": [STRINGS[s] for s, _ in made.strings],
    }
    for kind in kinds:
        for pooling in ("inside", "inside_minus_outside"):
            columns[f"{pooling}.{kind}"] = rng.random(sum(counts)).astype(np.float32)
            columns[f"{pooling}.{kind}"][::5] = np.nan
    write_table(made.paths["heat_maps"], "heat_maps", columns, {}, made_from)
