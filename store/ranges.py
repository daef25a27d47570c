"""Whether the numbers of a table can be what its schema says: rows that exist, offsets that end where they should, finite
values. Digests tell that a file is as it was written; this tells that no other program wrote nonsense into it, over which a
stage would stumble, or count for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import StoreError
from store.images import MOST_PIXELS

_ROWS_OF: dict[str, dict[str, str]] = {
    "index": {"ref_image": "image_name", "expression_ref": "ref_id", "ref_group": "@groups"},
    "heat_maps": {"phrase_image": ""},
    "pairs": {
        "proposal": "proposal_score",
        "expression_image": "",
        "expression_ref": "",
        "expression_group": "@groups",
    },
}
"""Table -> column of row numbers -> what they are rows of: a column, ``@`` an attribute, "" a column of another table."""
_OFFSETS: dict[str, dict[str, tuple[str, str]]] = {
    "index": {"instance_offsets": ("image_name", "instance_mask")},
    "proposals": {"image_offsets": ("status", "mask")},
    "overlap": {"ref_offsets": ("ref_area", "union")},
    "heat_maps": {"expression_offsets": ("expression_phrase", "")},
    "pairs": {
        "expression_offsets": ("expression_group", "proposal"),
        "relation_offsets": ("expression_group", "relation"),
        "other_offsets": ("expression_group", "other_product"),
    },
}
"""Table -> column of offsets -> a column with a value for each row of them, and one with a value for all that they divide."""
_FINITE = ("proposals", "pairs")
_NAN_IS_NONE = ("heat.",)
"""How the columns begin in which NaN says that there is no value."""
_LEAST: dict[str, dict[str, int]] = {
    "index": {"image_size": 1},
    "proposals": {"area": 0},
    "overlap": {"intersection": 0, "union": 0, "ref_area": 0},
    "pairs": {"intersection": 0, "union": 0, "expression_area": 0, "proposal_area": 0, "proposal_size": 1},
}
"""Table -> column -> the least that a value of it can be."""


def check_ranges(path: Path, name: str, columns: Mapping[str, Any], attrs: Mapping[str, Any], remedy: str) -> None:
    """Check the columns of table ``name`` that were read, as far as those they are about were read, too.

    Raises:
        StoreError: a value that cannot be, with its column and row.
    """

    def fault(column: str, bad: Any, expected: str) -> StoreError:
        row = int(np.flatnonzero(bad)[0])
        return StoreError(
            f"{path}: {column} [{row}]: expected {expected}, got {columns[column][row]}: no stage writes that; {remedy}"
        )

    for column, of in _ROWS_OF.get(name, {}).items():
        if column in columns:
            known = len(attrs.get(of[1:], ())) if of.startswith("@") else len(columns[of]) if of in columns else None
            rows = columns[column]
            bad = (rows < 0) | (rows >= (np.inf if known is None else known))
            if bad.any():
                raise fault(column, bad, "a row" if known is None else f"a row from 0 to {known - 1}")
    for column, (owners, parts) in _OFFSETS.get(name, {}).items():
        if column in columns:
            _check_offsets(path, column, columns, owners, parts, remedy)
    for column, least in _LEAST.get(name, {}).items():
        if column in columns and (low := columns[column] < least).any():
            raise fault(column, low.reshape(len(low), -1).any(1), f"{least} or more")
    if name == "index" and {"image_size", "image_status"} <= columns.keys():
        usable = np.array([not status for status in columns["image_status"]], np.bool_)
        large = usable & (columns["image_size"].astype(np.int64).prod(1) > MOST_PIXELS)
        if large.any():
            raise fault("image_size", large, f"at most {MOST_PIXELS:,} pixels")
    for column, values in columns.items() if name in _FINITE else ():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            none = np.isnan(values) & column.startswith(_NAN_IS_NONE)
            if not (good := np.isfinite(values) | none).all():
                raise fault(column, ~good.reshape(len(good), -1).all(1), "a finite number")


def _check_offsets(path: Path, column: str, columns: Mapping[str, Any], owners: str, parts: str, remedy: str) -> None:
    """Raise a StoreError unless offsets start at 0, never fall, and divide what they are about."""
    offsets = columns[column]
    rising = len(offsets) > 0 and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    fits = parts not in columns or (rising and offsets[-1] == len(columns[parts]))
    if not rising or not fits or (owners in columns and len(offsets) != len(columns[owners]) + 1):
        raise StoreError(
            f"{path}: {column}: expected offsets that divide {parts}, got others: no stage writes that; {remedy}"
        )
