"""What every file of the store holds: arrays, dtypes, symbolic shapes, units and who makes them.

Dimension symbols: I images, R refs, E expressions, N proposals (flat, image by image), S distinct strings,
P pairs (expression, proposal; flat, expression by expression), O overlaps (ref, proposal; flat, ref by ref), T annotated
objects (flat, image by image), D feature width, G groups, Q relations (flat, expression by expression), X other noun phrases
(likewise), Y (other noun phrase, proposal; flat, phrase by phrase), H distinct phrases about images (image by image),
C class names.
``utf8`` and ``bytes`` columns are ragged: kept as
``<name>.bytes`` (uint8) and ``<name>.offsets`` (int64).
Boxes are XYXY in pixels of the image, floats, x2 and y2 exclusive. Masks are COCO run-length counts (compressed), whose
size is that of their image. Features are raw: never normalised, because norms take part in the fusion (paper sec. 3.3).
A ``status`` column holds "" for a good row, otherwise the reason why it is bad or degenerate; a ``state`` column "" or one
of ``store.states.State``. The attribute ``losses`` says what a stage lost and why (``store.usable``), that of the pair table
what all stages before it lost.

A family of columns has one for each member that a run has: ``view.<label>`` for each view of a mask (``global.k3``,
``local``), ``dot.<label>*<text>`` for each view and text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

VERSION = 6
"""Raised by any change of what a stored array means; part of every fingerprint."""


@dataclass(frozen=True)
class Column:
    """One array: its dtype (a numpy name, ``utf8`` or ``bytes``), symbolic shape and meaning (with its unit)."""

    dtype: str
    dims: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Table:
    """One file or folder of the store; ``families``: prefix -> what each column ``<prefix>.<member>`` is."""

    producer: str
    columns: dict[str, Column]
    families: dict[str, Column]

    def column(self, name: str) -> Column | None:
        """The description of a column, None where the table has none of that name."""
        family, dot, member = name.partition(".")
        return self.families.get(family) if dot and member else self.columns.get(name)


def members(names: Iterable[str], family: str) -> list[str]:
    """The members of ``family`` among column names, in order: "view.local" -> "local"."""
    return [name.removeprefix(f"{family}.") for name in names if name.startswith(f"{family}.")]


def _table(producer: str, columns: dict[str, Column], families: dict[str, Column] | None = None) -> Table:
    return Table(producer, columns, families or {})


def _c(dtype: str, dims: str, meaning: str) -> Column:
    return Column(dtype, tuple(dims.split()), meaning)


INDEX = _table(
    "index",
    {
        "image_name": _c("utf8", "I", "file name, relative to the image root"),
        "image_id": _c("int64", "I", "the data set's own id of the image, -1 when it has none"),
        "image_size": _c("int32", "I 2", "height, width in pixels"),
        "image_digest": _c("utf8", "I", "of the pixels (store.images.open_image), '' when there is no file"),
        "image_status": _c("utf8", "I", "why the image cannot be used"),
        "instance_offsets": _c("int64", "I+1", "annotated objects of each image"),
        "instance_mask": _c("bytes", "T", "RLE counts of every annotated object, distinct within its image"),
        "ref_id": _c("int64", "R", "the data set's own id"),
        "ref_image": _c("int64", "R", "row of the image"),
        "ref_group": _c("int32", "R", "row of (data set, split) in the attribute `groups`"),
        "ref_category": _c("utf8", "R", "category name"),
        "ref_mask": _c("bytes", "R", "ground-truth mask, RLE counts; b'' when there is none"),
        "ref_status": _c(
            "utf8", "R", "why the ref cannot be evaluated; '' with no mask: its data set has no ground truth"
        ),
        "expression_id": _c("int64", "E", "the data set's sentence id"),
        "expression_ref": _c("int64", "E", "row of the ref; not decreasing"),
        "expression_raw": _c("utf8", "E", "the sentence as annotated, '' for one that is too long"),
        "expression_status": _c("utf8", "E", "why the sentence cannot be used: blank, missing, no text, too long"),
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
        "state": _c("utf8", "I", "'', unreadable image or no proposals"),
    },
)
_KEY = "as the key of its part in the work folder; '' for one that was not there"
MASK_FEATURES = _table(
    "embed_masks",
    {
        "status": _c("utf8", "N", "what was degenerate: empty mask on the grid, zero-size box, no usable vector"),
    },
    {
        "view": _c("float32", "N D", "the vector of every mask by one view, raw"),
        "degenerate": _c("bool", "N", "<view>: whether the mask has no proper vector of it"),
        "reason": _c("utf8", "I", "<view>: why masks of the image have none; I: images that have masks"),
        "offsets": _c("int64", "I+1", "image: masks of each image that has any"),
        "key": _c("utf8", "I", f"masks: an image's pixels and masks, boxes: those and the boxes, {_KEY}"),
    },
)
SPATIAL = {
    "relation_offsets": _c("int64", "E+1", "relations of each expression"),
    "relation": _c(
        "int32",
        "Q 4",
        "subject, kind, object, second object; subject and objects: place among the expression's other phrases, -1 the target "
        "as subject, none as object; kind: place in stages.text.words.KINDS",
    ),
}
POSITION = "whether a word alone places the target left, right, in the middle, at the top, at the bottom"
ORDINAL = "n and the place in left, right, middle, top, bottom that is counted from; 0 and -1 for none"
HYBRID = (
    "HybridGL's relation (place in stages.text.words.KINDS) and position (in stages.text.words.POSITIONS), -1 for none"
)
PARSE = _table(
    "parse",
    {
        "sentence": _c("utf8", "E", "clean sentence"),
        "noun_phrase": _c("utf8", "E", "target noun phrase"),
        "other_phrases": _c("utf8", "E", "the other noun phrases, JSON list"),
        "position_words": _c("utf8", "E", "JSON list"),
        "relation_words": _c("utf8", "E", "JSON list"),
        **SPATIAL,
        "position": _c("bool", "E 5", POSITION),
        "ordinal": _c("int32", "E 2", ORDINAL),
        "hybrid": _c("int32", "E 2", HYBRID),
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
        "other_offsets": _c("int64", "E+1", "other noun phrases of each expression"),
        "other_string": _c("int64", "X", "row of the string of each other noun phrase, in its own template"),
        "class_string": _c("int64", "C", "row of the string of each class name"),
    },
)
HEAT_MAPS = _table(
    "heat",
    {
        "expression_offsets": _c("int64", "E+1", "pairs of each expression: the proposals of its image, in order"),
        "expression_phrase": _c(
            "int64", "E", "row of its phrase; -1: faulty, its image unreadable, or no maps enabled"
        ),
        "phrase_image": _c("int64", "H", "row of the image; not decreasing"),
        "phrase": _c("utf8", "H", "clean sentence"),
    },
    {
        "map": _c("bytes", "H", "<kind>: float32 values, little-endian, row by row from the top; b'' for a lost map"),
        "grid": _c("int32", "H 2", "<kind>: rows, columns of the map, whose cells tile the image; 0 0 for a lost map"),
        "state": _c("utf8", "H", "<kind>: '', lost map or unreadable image"),
        "status": _c("utf8", "H", "<kind>: why the map is lost"),
        "key": _c("utf8", "H", f"<kind>: what the map depends on, {_KEY}"),
        "inside": _c("float32", "P", "<kind>: mean of the upsampled map inside the mask; NaN: map lost or mask empty"),
        "inside_minus_outside": _c(
            "float32", "P", "<kind>: that less the mean outside; NaN also for a mask of the whole image"
        ),
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
        "expression_state": _c("utf8", "E", "'' or its state; only '' and no proposals are evaluated"),
        "expression_status": _c("utf8", "E", "why the expression is not evaluated, '' where it is"),
        "expression_truncated": _c("bool", "E", "its sentence or phrase was cut to the context length"),
        "proposal": _c("int64", "P", "row of the proposal in the proposals file, and in the columns of N rows"),
        "intersection": _c("int64", "P", "pixels"),
        "union": _c("int64", "P", "pixels"),
        "proposal_score": _c("float32", "N", "the generator's confidence"),
        "proposal_area": _c("int64", "N", "pixels"),
        "proposal_box": _c("float32", "N 4", "XYXY, pixels"),
        "proposal_centroid": _c(
            "float32", "N 2", "x, y of the mask's centroid, as shares of the image's width and height"
        ),
        "proposal_prior": _c("float32", "N 5", "means inside the mask of the priors left, right, middle, top, bottom"),
        "proposal_size": _c("int32", "N 2", "height, width of its image in pixels"),
        "expression_position": _c("bool", "E 5", POSITION),
        "expression_ordinal": _c("int32", "E 2", ORDINAL),
        "expression_hybrid": _c("int32", "E 2", HYBRID),
        **SPATIAL,
        "other_offsets": _c("int64", "E+1", "other noun phrases of each expression"),
        "other_product": _c("float32", "X", "|q|^2 of each other noun phrase's vector, 0 if lost"),
        "other_sum_product": _c("float32", "E", "squared length of the sum of an expression's other phrases' vectors"),
    },
    {
        "dot": _c("float32", "P", "<view>*<text>: the view's vector times the text's; 0 where a vector is lost"),
        "view_product": _c(
            "float32", "N", "<view>*<view>: products of a proposal's own vectors; v*v is |v|^2, 0 if lost"
        ),
        "text_product": _c("float32", "E", "<text>*<text>: products of an expression's own vectors"),
        "other_dot": _c("float32", "Y", "<view>: the view's vector times the other phrase's; 0 where either is lost"),
        "bank_dot": _c(
            "float32", "N G", "<view>: the view's vector times the mean of the unit vectors of each group's sentences"
        ),
        "class_dot": _c(
            "float32", "N C", "<view>: the view's vector times the unit vector of each class name, 0 if lost"
        ),
        "heat": _c(
            "float32",
            "P",
            "<kind>, <kind>.inside_minus_outside: mean of a heat map inside the mask, and less that outside, "
            "as in heat_maps; NaN for none",
        ),
    },
)
SCORES = _table(
    "score",
    {
        "score": _c("float32", "P", "score of every pair by the first rule of the attribute `rules`"),
    },
    {
        "chosen": _c(
            "int64",
            "E",
            "<rule>: row of the chosen pair among the expression's pairs, -1 for none; also upper_bound; <encoder>:<rule> of "
            "an encoder beside the main one",
        ),
    },
)
TABLES = {
    "index": INDEX,
    "proposals": PROPOSALS,
    "mask_features": MASK_FEATURES,
    "parse": PARSE,
    "text_features": TEXT_FEATURES,
    "overlap": OVERLAP,
    "heat_maps": HEAT_MAPS,
    "pairs": PAIRS,
    "scores": SCORES,
}
