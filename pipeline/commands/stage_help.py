"""Every value that a stage takes, with its kind, range and default: ``glimpse run STAGE --help``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.registry import PER_ENCODER, STAGES, stage_module
from pipeline.runner import Execution, Place

_WIDTH = 80
_ENDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
}


def stages_help() -> str:
    """What ``glimpse run --help`` says."""
    about = (
        "Run one stage. What is not named on the command line is the params file's; glimpse run STAGE --help lists every value "
        "of a stage, its range and its default. Exit status 1 also where files were not there (see the message): what could "
        "be computed is kept."
    )
    lines = ["glimpse run STAGE --profile FILE [--NAME VALUE ...]", "", *textwrap.wrap(about, _WIDTH), ""]
    for name in STAGES:
        lines += textwrap.wrap(
            f"{name:<13}{_first_line(stage_module(name).__doc__)}", _WIDTH, subsequent_indent=" " * 13
        )
    return "\n".join(lines)


def stage_help(name: str) -> str:
    """What ``glimpse run STAGE --help`` says of stage ``name``."""
    stage = stage_module(name)
    of = f"values, in the params file under {', '.join(STAGES[name])}" if STAGES[name] else "values: none"
    lines = [
        f"glimpse run {name} --profile FILE [--NAME VALUE ...]",
        "",
        *textwrap.wrap(" ".join((stage.__doc__ or "").split("\n\n")[0].split()), _WIDTH),
        "",
        f"{of}:",
        *_fields(stage.Params),
        "",
        "inputs and outputs, by default those of the params file:",
        *(f"  --{field} PATH" for field in stage.Paths.model_fields),
        "",
        "where the run belongs:",
        *_fields(Place, without=() if name in PER_ENCODER else ("encoder",)),
        "",
        "how it runs (or GLIMPSE_DEVICE=... and so on before the command):",
        *_fields(Execution),
    ]
    return "\n".join(lines)


def _first_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split()).partition(": ")[2]


def _fields(model: type[BaseModel], without: tuple[str, ...] = ()) -> Iterator[str]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        if name in without:
            continue
        default = "" if name in required else f", default {_shown(field.get('default'))}"
        kind = kind_of(field, schema.get("$defs", {}))
        yield from textwrap.wrap(
            f"--{name}  {kind}{default}", _WIDTH - 2, initial_indent="  ", subsequent_indent="      "
        )
        about = str(field.get("description", ""))
        yield from textwrap.wrap(about, _WIDTH - 6, initial_indent="      ", subsequent_indent="      ")


def kind_of(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A field of a JSON schema in words: its kind and range.

    >>> kind_of({"type": "number", "minimum": 0, "maximum": 1}, {})
    'number from 0 to 1'
    >>> kind_of({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {})
    'whole number or none'
    >>> kind_of({"type": "array", "items": {"enum": ["a", "b"]}}, {})
    'list of a, b'
    """
    if "$ref" in field:
        return kind_of(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field:
        return " or ".join(kind_of(each, definitions) for each in field["anyOf"])
    if field.get("type") == "null":
        return "none"
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(str(value) for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {kind_of(field.get('items', {}), definitions)}"
    if field.get("format") == "path":
        return "path"
    kind = _KINDS.get(field.get("type", ""), "value")
    return " ".join([kind, *(text.format(field[end]) for end, text in _ENDS.items() if end in field)])


def _shown(default: Any) -> str:
    if default in (None, "", [], {}):
        return "none"
    return ", ".join(map(str, default)) if isinstance(default, list) else str(default)
