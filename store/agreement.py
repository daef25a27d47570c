"""JSON documents of numbers, compared with a tolerance: sums in another order change the last digits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from store.document import RUN, read_document
from store.errors import StoreError

TOLERANCE = 1e-6
"""Greatest difference of two numbers that agree. Metrics are fractions; one other choice changes the mean over n expressions
by some 0.1 / n, another order of their sum by 1e-16."""
IDENTITY = RUN
"""The key under which a document says which run made it; no part of its numbers."""
VOLATILE = frozenset({"commit", "date", "digest", "machine", "pairs", "producer", "scores", "version", "versions"})
"""Entries under that key that differ between two machines for the same values."""
MADE_BY = frozenset({"code", "libraries"})
"""What a stage's configuration holds besides its values: other code with the same results changes no file."""


def disagreements(first: Any, second: Any, tolerance: float = TOLERANCE) -> list[str]:
    """Where two documents differ: ``a.b.0: 1 and 2`` for each value that is not in both, equal within ``tolerance``.

    What says which run made a document, under the key ``run``, is not compared.

    >>> disagreements({"miou": 0.5, "run": {"date": "Monday"}}, {"miou": 0.5000001})
    []
    >>> disagreements({"miou": 0.5, "ci": [0.1]}, {"miou": 0.6, "ci": [0.1, 0.2]})
    ['miou: 0.5 and 0.6', 'ci.1: nothing and 0.2']
    """
    before, after = (dict(_leaves(content, ())) for content in (first, second))
    return [
        f"{'.'.join(path)}: {before.get(path, 'nothing')} and {after.get(path, 'nothing')}"
        for path in dict.fromkeys([*before, *after])
        if not (path in before and path in after and _equal(before[path], after[path], tolerance))
    ]


def agrees_with(path: Path, producer: str, content: Mapping[str, Any]) -> bool:
    """Whether the document at ``path``, of stage ``producer``, has the numbers of ``content`` and was made with its values.

    Such a file is kept: it may be under version control, where only a date or a commit would change. A missing or damaged
    file never agrees.
    """
    try:
        before = read_document(path, producer)
    except StoreError:
        return False
    return not disagreements(before, content) and _lasting(before) == _lasting(content)


def _lasting(content: Mapping[str, Any]) -> Any:
    """What a document's numbers were made with and from, without code, libraries, machine and date."""
    identity = content[IDENTITY]
    values = {
        stage: {name: value for name, value in config.items() if name not in MADE_BY}
        for stage, config in identity.get("values", {}).items()
    }
    return {**{name: value for name, value in identity.items() if name not in VOLATILE}, "values": values}


def _leaves(content: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            if (*path, name) != (IDENTITY,):
                yield from _leaves(value, (*path, str(name)))
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from _leaves(value, (*path, str(place)))
    else:
        yield path, content


def _equal(first: Any, second: Any, tolerance: float) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))
    if numbers and (isinstance(first, float) or isinstance(second, float)):
        return math.isclose(first, second, rel_tol=0, abs_tol=tolerance) or (math.isnan(first) and math.isnan(second))
    return type(first) is type(second) and bool(first == second)
