"""Columns as a Parquet file, by pyarrow (extra ``tables``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.listings.listing import Listing, encodable
from store.errors import CodeError, extra
from store.publish import replacing

_TYPES = {"text": "string", "count": "int64", "number": "float64", "percent": "float64", "flag": "bool"}


def arrow() -> Any:
    """The module ``pyarrow``.

    Raises:
        CodeError: it is not installed; with the command that gets it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CodeError(
            f"expected pyarrow to write Parquet, it cannot be imported ({error}); run: {extra('tables')}"
        ) from error
    return pyarrow


def write_listing(listing: Listing, out: Path) -> None:
    """Write a listing with the type of each field, also where all its values are None."""
    lib = arrow()
    columns = {}
    for field in listing.fields:
        values = [row[field.name] for row in listing.rows]
        values = [encodable(value) if isinstance(value, str) else value for value in values]
        columns[field.name] = lib.array(values, lib.type_for_alias(_TYPES[field.kind]))
    write_columns(columns, out)


def write_columns(columns: Mapping[str, Any], out: Path) -> None:
    """Write Arrow arrays of one length to ``out``, whole or not at all."""
    lib = arrow()
    with replacing(out) as temporary:
        lib.parquet.write_table(lib.table(dict(columns)), temporary)
