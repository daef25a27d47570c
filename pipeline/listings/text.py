"""Listings as text: Markdown and LaTeX for papers and pages, CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import re

from pipeline.listings.listing import Listing, encodable, is_right, shown

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$])")
"""What could begin markup inside a cell."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "[": "{[}",
    "]": "{]}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
"""What LaTeX would take for a command, or would set as another sign; "[" after a line's end would be a length."""
_DASHES = re.compile("-(?=-)")
"""Two hyphens would become one dash."""


def markdown(listing: Listing) -> str:
    """A table of GitHub's Markdown; numbers to the right."""
    fields, rows = shown(listing)
    rules = ["---:" if is_right(field) else "---" for field in fields]
    lines = [[escape_markdown(field.heading) for field in fields], rules]
    lines += [[escape_markdown(text) for text in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape_markdown(text: str) -> str:
    """``text`` as a cell of Markdown shows it: every sign that could begin markup there gets a backslash.

    >>> escape_markdown("a|b *c*")
    'a\\\\|b \\\\*c\\\\*'
    """
    return _MARKDOWN.sub(r"\\\1", text)


def latex(listing: Listing) -> str:
    """A ``tabular`` that needs no package but ``textcomp``, which LaTeX has loaded itself since 2020."""
    fields, rows = shown(listing)
    lines = [r"\begin{tabular}{" + "".join("r" if is_right(field) else "l" for field in fields) + "}", r"\hline"]
    lines.append(" & ".join(escape_latex(field.heading) for field in fields) + r" \\")
    lines.append(r"\hline")
    lines += [" & ".join(map(escape_latex, row)) + r" \\" for row in rows]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def escape_latex(text: str) -> str:
    """``text`` as LaTeX sets it, in text mode.

    >>> escape_latex("50% of a_b")
    '50\\\\% of a\\\\_b'
    """
    return _DASHES.sub("-{}", "".join(_LATEX.get(sign, sign) for sign in text))


def as_csv(listing: Listing) -> str:
    """CSV with a header line: all but numbers quoted (a lone carriage return would else end a line), "" for None, "true" and
    "false" for flags, numbers in full."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([field.name for field in listing.fields])
    for row in listing.rows:
        writer.writerow([_plain(row[field.name]) for field in listing.fields])
    return stream.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return encodable(value) if isinstance(value, str) else value


def as_json(listing: Listing) -> str:
    """A JSON list with an object on each line; null stands for None."""
    names = [field.name for field in listing.fields]
    lines = [json.dumps({name: row[name] for name in names}, allow_nan=False) for row in listing.rows]
    return "[\n" + ",\n".join(lines) + "\n]\n"


TEXTS = {"md": markdown, "latex": latex, "csv": as_csv, "json": as_json}
"""Name of a form -> what makes the text."""
