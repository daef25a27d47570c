"""Reading a params file as plain values, within bounds: YAML can name a thousand million values in a few lines.

DVC reads the file before Glimpse does (``dvc repro``), with its own library and without these bounds: ``glimpse preflight`` is
the safe way to look at a params file that somebody else wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from store.errors import ParameterError, reason
from store.regular import read_regular

PARAMS_FILES = ("params.yaml", "demo/params.yaml")
MOST_BYTES = 1 << 20
MOST_VALUES = 100_000
"""Values of a file with its aliases (``*name``) written out."""
DEEPEST = 32


def read_params(file: Path) -> dict[str, Any]:
    """The sections of a params file.

    Raises:
        ParameterError: no such file, no plain file, no UTF-8, no YAML, no sections, or more than the bounds above.
    """
    try:
        text = read_regular(file, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        said = "found none" if isinstance(error, FileNotFoundError) else f"cannot read it ({reason(error)})"
        raise ParameterError(
            f"{file}: expected a params file ({' or '.join(PARAMS_FILES)}), {said}; name it with --params"
        ) from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{file}: expected UTF-8, byte {error.start} is none; save the file as UTF-8") from error
    try:
        _check_bounds(file, text)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParameterError(f"{file}: not YAML: {error}; correct it") from error
    except (ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:  # of its constructors
        raise ParameterError(f"{file}: a value that is none of its kind ({reason(error)}); correct it") from error
    if not isinstance(values, dict):
        raise ParameterError(f"{file}: expected sections, got {type(values).__name__}; write them as in params.yaml")
    return values


def _check_bounds(file: Path, text: str) -> None:
    """Raise a ParameterError for a file that is too deep, too large with its aliases written out, or holds itself."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and how many values came before it
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{file}, line {event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise ParameterError(f"{where}: *{event.anchor} stands inside of what it names; write it out")
            count += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if len(open_nodes) > DEEPEST:
            raise ParameterError(f"{where}: expected at most {DEEPEST} levels, got more; make it flatter")
        if count > MOST_VALUES:
            raise ParameterError(
                f"{where}: expected at most {MOST_VALUES:,} values with all aliases written out, got more; shorten it"
            )
