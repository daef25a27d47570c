"""What every file of the store holds: arrays, dtypes, symbolic shapes, units and who makes them.

Dimension symbols: I images, R refs, E expressions, N proposals (flat, image by image), S distinct strings,
P pairs (expression, proposal; flat, expression by expression), O overlaps (ref, proposal; flat, ref by ref), T annotated
objects (flat, image by image), D feature width, G grid points. ``utf8`` and ``bytes`` columns are ragged: kept as
``<name>.bytes`` (uint8) and ``<name>.offsets`` (int64).
Boxes are XYXY in pixels of the image, floats, x2 and y2 exclusive. Masks are COCO run-length counts (compressed), whose
size is that of their image. Features are raw: never normalised, because norms take part in the fusion (paper sec. 3.3).
A ``status`` column holds "" for a good row, otherwise the reason why it is bad or degenerate.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 2
"""Raised by any change of what a stored array means; part of every fingerprint."""


@dataclass(frozen=True)
class Column:
    """One array: its dtype (a numpy name, ``utf8`` or ``bytes``), symbolic shape and meaning (with its unit)."""

    dtype: str
    dims: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Table:
    """One file or folder of the store. ``per_k`` columns come once for each masked_blocks value, as ``<name>.k<k>``."""

    producer: str
    columns: dict[str, Column]
    per_k: dict[str, Column]

    def column(self, name: str) -> Column | None:
        base, dot, k = name.rpartition(".k")
        return self.per_k.get(base) if dot and k.isdigit() else self.columns.get(name)


def _table(producer: str, columns: dict[str, Column], per_k: dict[str, Column] | None = None) -> Table:
    return Table(producer, columns, per_k or {})


def _c(dtype: str, dims: str, meaning: str) -> Column:
    return Column(dtype, tuple(dims.split()), meaning)


INDEX = _table(
    "index",
    {
        "image_name": _c("utf8", "I", "file name, relative to the image root"),
        "image_id": _c("int64", "I", "the data set's own id of the image, -1 when it has none"),
        "image_size": _c("int32", "I 2", "height, width in pixels"),
        "image_digest": _c("utf8", "I", "sha256 of the file, '' when there is none"),
        "image_status": _c("utf8", "I", "why the image cannot be used"),
        "instance_offsets": _c("int64", "I+1", "annotated objects of each image"),
        "instance_mask": _c("bytes", "T", "RLE counts of every annotated object, distinct within its image"),
        "ref_id": _c("int64", "R", "the data set's own id"),
        "ref_image": _c("int64", "R", "row of the image"),
        "ref_group": _c("int32", "R", "row of (data set, split) in the attribute `groups`"),
        "ref_category": _c("utf8", "R", "category name"),
        "ref_mask": _c("bytes", "R", "ground-truth mask, RLE counts; b'' when there is none"),
        "ref_status": _c("utf8", "R", "why the ref cannot be evaluated"),
        "expression_id": _c("int64", "E", "the data set's sentence id"),
        "expression_ref": _c("int64", "E", "row of the ref; not decreasing"),
        "expression_raw": _c("utf8", "E", "the sentence as annotated"),
    },
)
PROPOSALS = _table(
    "propose",
    {
        "image_offsets": _c("int64", "I+1", "proposals of each image"),
        "mask": _c("bytes", "N", "RLE counts"),
        "box": _c("float32", "N 4", "XYXY, pixels"),
        "score": _c("float32", "N", "the source's confidence; FreeSOLO: 0 to 1, COCO files: as given, instances: 1"),
        "area": _c("int64", "N", "pixels"),
        "status": _c("utf8", "I", "why the image has no proposals"),
    },
)
MASK_FEATURES = _table(
    "embed_masks",
    {
        "local": _c("float32", "N D", "f_L, embedding of the masked crop"),
        "status": _c("utf8", "N", "what was degenerate: empty mask on the grid, zero-size box"),
    },
    {"global": _c("float32", "N D", "f_G, embedding of the mask inside its scene, k masked blocks")},
)
PARSE = _table(
    "parse",
    {
        "sentence": _c("utf8", "E", "clean sentence"),
        "noun_phrase": _c("utf8", "E", "target noun phrase"),
        "other_phrases": _c("utf8", "E", "the other noun phrases, JSON list"),
        "position_words": _c("utf8", "E", "JSON list"),
        "relation_words": _c("utf8", "E", "JSON list"),
        "status": _c("utf8", "E", "what is odd about the text: a blank sentence"),
    },
)
TEXT_FEATURES = _table(
    "embed_text",
    {
        "string": _c("utf8", "S", "distinct string as encoded (template applied)"),
        "feature": _c("float32", "S D", "text embedding"),
        "truncated": _c("bool", "S", "longer than the model's context; the end was cut"),
        "sentence_string": _c("int64", "E", "row of the sentence's string"),
        "phrase_string": _c("int64", "E", "row of the noun phrase's string"),
    },
)
OVERLAP = _table(
    "overlap",
    {
        "ref_offsets": _c("int64", "R+1", "overlaps of each ref: the proposals of its image, in order"),
        "intersection": _c("int64", "O", "pixels"),
        "union": _c("int64", "O", "pixels"),
        "ref_area": _c("int64", "R", "ground-truth area in pixels, 0 when there is none"),
    },
)
PAIRS = _table(
    "pair",
    {
        "expression_offsets": _c("int64", "E+1", "pairs of each expression: the proposals of its image, in order"),
        "expression_image": _c("int64", "E", "row of the image, the resampling unit of confidence intervals"),
        "expression_ref": _c("int64", "E", "row of the ref"),
        "expression_group": _c("int32", "E", "row of (data set, split) in the attribute `groups`"),
        "expression_area": _c("int64", "E", "ground-truth area in pixels"),
        "expression_status": _c("utf8", "E", "why the expression is not evaluated (its ref has no ground truth)"),
        "expression_truncated": _c("bool", "E", "its sentence or phrase was cut to the context length"),
        "text_norms": _c("float32", "E 3", "|t_G|^2, |t_L|^2, t_G.t_L"),
        "proposal": _c("int64", "P", "row of the proposal in the proposals file"),
        "intersection": _c("int64", "P", "pixels"),
        "union": _c("int64", "P", "pixels"),
        "c": _c("float32", "P", "f_L.t_G"),
        "d": _c("float32", "P", "f_L.t_L"),
        "local_norm": _c("float32", "P", "|f_L|^2"),
        "proposal_score": _c("float32", "P", "the generator's confidence"),
        "proposal_area": _c("int64", "P", "pixels"),
        "proposal_box": _c("float32", "P 4", "XYXY, pixels"),
    },
    {
        "a": _c("float32", "P", "f_G.t_G"),
        "b": _c("float32", "P", "f_G.t_L"),
        "global_norm": _c("float32", "P", "|f_G|^2"),
        "cross_norm": _c("float32", "P", "f_G.f_L"),
    },
)
SCORES = _table(
    "score",
    {
        "chosen": _c("int64", "E", "row of the chosen pair among the expression's pairs (global-local), -1 for none"),
        "chosen_global": _c("int64", "E", "the same for the global rule (alpha 1)"),
        "chosen_cropping": _c("int64", "E", "the same for the cropping rule (alpha 0)"),
        "chosen_upper_bound": _c("int64", "E", "the same for the highest IoU"),
        "score": _c("float32", "P", "global-local score of every pair, 100 x cosine"),
    },
)
TABLES = {
    "index": INDEX,
    "proposals": PROPOSALS,
    "mask_features": MASK_FEATURES,
    "parse": PARSE,
    "text_features": TEXT_FEATURES,
    "overlap": OVERLAP,
    "pairs": PAIRS,
    "scores": SCORES,
}
