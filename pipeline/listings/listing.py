"""A listing: rows of named values with a type each, before they become Markdown, LaTeX, CSV, JSON or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "count", "number", "percent", "flag"]
"""``percent``: a fraction, which tables for people show in percent. ``number``: a float of any other unit."""


@dataclass(frozen=True)
class Field:
    """A column.

    Attributes:
        name: in CSV, JSON and Parquet. heading: in tables for people, "" for a column that they leave out.
    """

    name: str
    kind: Kind
    heading: str = ""


@dataclass(frozen=True)
class Listing:
    """Rows, each with a value or None for every field."""

    fields: Sequence[Field]
    rows: Sequence[dict[str, Any]]


def shown(listing: Listing) -> tuple[list[Field], list[list[str]]]:
    """The columns for people, and their cells: percent and numbers with two decimals, an en dash for None."""
    fields = [field for field in listing.fields if field.heading]
    return fields, [[cell(row[field.name], field.kind) for field in fields] for row in listing.rows]


def cell(value: Any, kind: Kind) -> str:
    """A value for people, on one line.

    >>> cell(0.12345, "percent"), cell(None, "number"), cell(True, "flag"), cell("a\\n b", "text")
    ('12.35', '–', 'yes', 'a b')
    """
    if value is None:
        return "–"
    if kind in ("percent", "number"):
        return f"{100 * value if kind == 'percent' else value:.2f}"
    if kind == "flag":
        return "yes" if value else "no"
    return " ".join(encodable(str(value)).split())


def encodable(text: str) -> str:
    """``text`` that UTF-8 can hold: half a surrogate pair, which a JSON file can bring in, becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def is_right(field: Field) -> bool:
    """Whether a column is set to the right: of numbers."""
    return field.kind in ("count", "number", "percent")
