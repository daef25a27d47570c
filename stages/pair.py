"""Stage pair: the pair table, one row for every (expression, proposal of its image).

After this stage no vector is needed again: any alpha, beta, rule or filter is arithmetic over these columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stages.contract import Context, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.scoring.geometry import geometry_columns
from stages.scoring.heat import POOLINGS, heat_name
from stages.scoring.other_products import bank_of, other_columns
from stages.scoring.products import TEXTS, product_columns, ranges, text_rows
from stages.views.registry import is_mixed
from store.errors import StoreError, rerun
from store.ragged import offsets_of
from store.schema import SPATIAL, members
from store.states import USABLE, expression_states
from store.table import Table, read_table, require_same, stored_columns, write_table
from store.usable import Lost, lost_norms, require_usable
from store.vectors import Vectors

Floats = NDArray[np.float32]
_SPATIAL = ("position", "ordinal", "hybrid")
"""What stage parse says of an expression's places and relations, apart from the ragged columns ``SPATIAL``."""


class Params(BaseParams):
    """The table holds everything that later stages vary, so it has no parameters."""


class Paths(BasePaths):
    index: Path
    proposals: Path
    mask_features: Path
    parse: Path
    text_features: Path
    overlap: Path
    heat_maps: Path
    pairs: Path
    outputs: ClassVar[tuple[str, ...]] = ("pairs",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the pair table."""
    summary = Summary()
    index = read_table(paths.index, "index")
    proposals = read_table(paths.proposals, "proposals")
    overlap = read_table(paths.overlap, "overlap")
    parse = read_table(paths.parse, "parse", ("status", *_SPATIAL, *SPATIAL))
    masks, text = Vectors(paths.mask_features, "mask_features"), Vectors(paths.text_features, "text_features")
    require_same("pair", (proposals, "index", index), (overlap, "index", index), (overlap, "proposals", proposals))
    require_same("pair", (masks, "proposals", proposals), (text, "parse", parse), (parse, "index", index))
    heat = read_table(paths.heat_maps, "heat_maps", ("expression_offsets", *mean_names(paths.heat_maps)))
    require_same("pair", (heat, "index", index), (heat, "proposals", proposals), (heat, "parse", parse))
    require_same_encoder(masks, text)
    require_encoder_of(masks, heat)

    expressions = expression_columns(index, proposals, overlap, text)
    offsets = expressions["expression_offsets"]
    image_offsets = proposals["image_offsets"]
    proposal = ranges(image_offsets[expressions["expression_image"]], np.diff(offsets))
    summary.read = {
        "expressions": len(offsets) - 1,
        "proposals": len(proposals["mask"]),
        "strings": len(text.column("truncated")),
    }
    columns: dict[str, Any] = {
        **expressions,
        "proposal": proposal,
        **{name: overlap[name][_overlap_rows(overlap, expressions)] for name in ("intersection", "union")},
        **{f"proposal_{name}": proposals[name] for name in ("score", "area", "box")},
        **{f"expression_{name}": parse[name] for name in _SPATIAL},
        **{name: parse[name] for name in SPATIAL},
        **heat_columns(heat, offsets),
    }
    with summary.timed("geometry"):
        columns |= geometry_columns(index, proposals)
    with summary.timed("compute"):
        image = expressions["expression_image"]
        columns |= product_columns(masks, text, image_offsets, image, context)
        bank = bank_of(text, expressions["expression_group"], len(index.attrs["groups"]))
        columns |= other_columns(masks, text, image_offsets, image, bank, context)
    columns |= expression_states_of(columns, index, proposals, parse, summary)
    inputs: dict[str, Table | Vectors] = {
        "index": index,
        "proposals": proposals,
        "parse": parse,
        "mask_features": masks,
        "text_features": text,
        "overlap": overlap,
        "heat_maps": heat,
    }
    made_from = {name: source.digest for name, source in inputs.items()}
    write_table(paths.pairs, "pairs", columns, params.config(), made_from, **_attributes(inputs, summary))
    summary.wrote = {"pairs": len(proposal)}
    summary.skipped = [f"expression {i}: {s}" for i, s in enumerate(columns["expression_status"]) if s]
    return summary


def _attributes(inputs: dict[str, Table | Vectors], summary: Summary) -> dict[str, Any]:
    """What the table says of the run: encoder, values of the stages before it, and all that was lost up to here."""
    stages = {
        "index": "index",
        "propose": "proposals",
        "embed_masks": "mask_features",
        "parse": "parse",
        "embed_text": "text_features",
        "heat": "heat_maps",
    }
    attrs = {stage: inputs[name].attrs for stage, name in stages.items()}
    return {
        **{name: attrs["embed_masks"][name] for name in ("score_rule", "encoder")},
        "configs": {stage: dict(values["config"]) for stage, values in attrs.items()},
        "groups": attrs["index"]["groups"],
        "texts": list(TEXTS),
        "losses": [loss for values in attrs.values() for loss in values.get("losses", [])] + summary.losses,
    }


def require_same_encoder(masks: Vectors, text: Vectors) -> None:
    """Check that masks and texts were embedded by one encoder: a product of two encoders' vectors means nothing.

    Raises:
        StoreError: they were not, or it is not said; with what differs.
    """
    mask_encoder, text_encoder = masks.attrs.get("encoder"), text.attrs.get("encoder")
    remedy = f"run both again with the profile's encoder: {rerun('embed_masks')}; {rerun('embed_text')}"
    if not mask_encoder or not text_encoder:
        nameless = masks.path if not mask_encoder else text.path
        raise StoreError(f"pair: {nameless} does not say which encoder made it; {remedy}")
    if mask_encoder != text_encoder:
        differ = [
            f"{n} {mask_encoder.get(n)} and {text_encoder.get(n)}"
            for n in sorted({*mask_encoder, *text_encoder})
            if mask_encoder.get(n) != text_encoder.get(n)
        ]
        raise StoreError(
            f"pair: expected the masks of {masks.path} and the texts of {text.path} to be embedded by one encoder, got "
            f"two: {'; '.join(differ)}; {remedy}"
        )
    if masks.width != text.width and masks.rows_stored and text.rows_stored:
        raise StoreError(
            f"pair: expected vectors of one width, got {masks.width} numbers for a mask in {masks.path} and {text.width} "
            f"for a text in {text.path}; {remedy}"
        )


def require_encoder_of(masks: Vectors, heat: Table) -> None:
    """Check that heat maps which an encoder made are of the masks' encoder.

    Raises:
        StoreError: they are of another.
    """
    encoder = heat.attrs.get("encoder")
    if encoder is not None and encoder != masks.attrs["encoder"]:
        raise StoreError(
            f"pair: expected the heat maps of {heat.path} to be made by the encoder of {masks.path}, got another; run it again "
            f"with the profile's encoder: {rerun('heat')}"
        )


def mean_names(path: Path) -> list[str]:
    """The columns of a table of heat maps that have a value for each pair."""
    return [name for name in stored_columns(path, "heat_maps") if name.partition(".")[0] in POOLINGS]


def heat_columns(heat: Table, offsets: NDArray[np.int64]) -> dict[str, Any]:
    """The means of heat maps as columns of the pair table.

    Raises:
        StoreError: they are of other pairs.
    """
    if not np.array_equal(heat["expression_offsets"], offsets):
        raise StoreError(f"pair: {heat.path} has other pairs than the proposals; {rerun('heat')}")
    pooled = [(name, *name.partition(".")[::2]) for name in heat.columns if name.partition(".")[0] in POOLINGS]
    return {heat_name(kind, pooling): heat[name] for name, pooling, kind in pooled}


def expression_states_of(
    columns: dict[str, Any], index: Table, proposals: Table, parse: Table, summary: Summary
) -> dict[str, list[str]]:
    """The state of every expression, and why it is not evaluated; all products of a lost vector in ``columns`` become 0.

    A NaN, or a vector without a direction, would win or lose an argmax by accident.

    Raises:
        DataError: no expression can be used.
    """
    proposals_of = _lost(columns, "view_product")
    text_of = _lost(columns, "text_product")
    lost_text = np.any(list(text_of.values()), axis=0)
    lost_proposal = np.any([lost for view, lost in proposals_of.items() if is_mixed(view)], axis=0)
    counts = np.diff(columns["expression_offsets"])
    others = np.diff(columns["other_offsets"])
    starts = np.repeat(proposals["image_offsets"][columns["expression_image"]], others)
    by_other = ranges(starts, np.repeat(counts, others))
    for name, column in columns.items():
        family, _, cell = name.partition(".")
        first, _, second = cell.partition("*")
        if family == "dot":
            column[proposals_of[first][columns["proposal"]] | np.repeat(text_of[second], counts)] = 0
        elif family == "view_product":
            column[proposals_of[first] | proposals_of[second]] = 0
        elif family == "text_product":
            column[text_of[first] | text_of[second]] = 0
        elif family == "other_dot":
            column[proposals_of[first][by_other]] = 0
        elif family in ("bank_dot", "class_dot"):
            column[proposals_of[first]] = 0
    states, reasons = expression_states(index, proposals, parse, lost_proposal, lost_text)
    rows = enumerate(zip(states, reasons, strict=True))
    left_out = [Lost(state, reason, f"expression {row}") for row, (state, reason) in rows if state not in USABLE]
    require_usable(summary, "expressions", len(states), left_out, "see the warnings of the stages before")
    return {"expression_state": states, "expression_status": reasons}


def _lost(columns: dict[str, Any], family: str) -> dict[str, NDArray[np.bool_]]:
    """View or text -> which rows (proposals or expressions) lack a usable vector of it, by its squared length."""
    cells = [cell.partition("*") for cell in members(columns, family)]
    return {name: lost_norms(columns[f"{family}.{name}*{name}"]) for name, _, other in cells if name == other}


def expression_columns(index: Table, proposals: Table, overlap: Table, text: Vectors) -> dict[str, Any]:
    """The per-expression columns of the table."""
    ref = index["expression_ref"]
    image = index["ref_image"][ref]
    truncated = text.column("truncated")
    return {
        "expression_offsets": offsets_of(np.diff(proposals["image_offsets"])[image]),
        "expression_image": image,
        "expression_ref": ref,
        "expression_group": index["ref_group"][ref],
        "expression_area": overlap["ref_area"][ref],
        "expression_truncated": truncated[text_rows(text)].any(1),
    }


def _overlap_rows(overlap: Table, expressions: dict[str, Any]) -> NDArray[np.int64]:
    starts = overlap["ref_offsets"][expressions["expression_ref"]]
    return ranges(starts, np.diff(expressions["expression_offsets"]))
