"""Untrusted -> typed: command-line words and YAML sections become a stage's parameters and paths, or a clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from store.errors import ParameterError, nearest

Model = TypeVar("Model", bound=BaseModel)
_DEEPEST = 16
_LONGEST = 200


def words_to_values(words: Sequence[str]) -> dict[str, Any]:
    """The words into which DVC unfolds ``${section}`` in a command: a dotted name is a nested key, several words are a list.

    >>> words_to_values("--alpha 0.5 --ks 1 2 --datasets.refcoco.splits val".split())
    {'alpha': '0.5', 'ks': ['1', '2'], 'datasets': {'refcoco': {'splits': 'val'}}}
    """
    values: dict[str, Any] = {}
    given: dict[str, list[str]] = {}
    name = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            if name in given:
                raise ParameterError(f"--{name}: given twice")
            given[name] = [value] if equals else []
        elif name is None:
            raise ParameterError(f"{word!r}: expected a name such as --alpha before the first value")
        else:
            given[name].append(word)
    for name, parts in given.items():
        if not parts:
            raise ParameterError(f"--{name}: expected a value, got none")
        *outer, last = name.split(".", _DEEPEST)
        place = values
        for key in outer:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ParameterError(f"--{name}: expected names below --{key}, which has a value; give one of them")
        if last in place:
            raise ParameterError(f"--{name}: expected a value or names below it, got both; give one of them")
        place[last] = parts[0] if len(parts) == 1 else parts
    return values


def split_values(values: Mapping[str, Any], models: Sequence[type[BaseModel]], where: str) -> list[dict[str, Any]]:
    """``values`` sorted to the models that have a field of that name.

    Raises:
        ParameterError: a name that no model has, with the nearest one.
    """
    known = {name for model in models for name in model.model_fields}
    for name in values:
        if name not in known:
            raise ParameterError(f"{where}: unknown parameter {name!r}; {nearest(name, known)}")
    return [{n: v for n, v in values.items() if n in model.model_fields} for model in models]


def checked(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """``values`` as ``model``.

    Raises:
        ParameterError: what was expected, what came and where, one line for each fault.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParameterError("\n".join(_fault(model, fault, where) for fault in error.errors())) from None


def _fault(model: type[BaseModel], fault: Any, where: str) -> str:
    path = [str(part) for part in fault["loc"]]
    name = ".".join([where, *path])
    if fault["type"] == "extra_forbidden":
        return f"{name}: unknown parameter {path[-1]!r}; {nearest(path[-1], _fields_at(model, path[:-1]))}"
    if fault["type"] == "missing":
        return f"{name}: expected a value, got none"
    return f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {_shown(fault['input'])}"


def _shown(value: Any) -> str:
    """A value that came, shortened; Python refuses to write whole numbers of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The names that the model nested under ``path`` knows; [] where the path leaves the models."""
    for part in path:
        field = model.model_fields.get(part)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if nested is not None:
            model = nested
    return list(model.model_fields)
