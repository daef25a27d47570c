"""Settings of a view in the params file, ``embed_masks.settings.<view>``, and the labels that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from pydantic import ValidationError

from stages.contract import Params
from store.errors import ParameterError


def labels_from(name: str, kind: type[Params]) -> Callable[[Any], dict[str, Mapping[str, Any]]]:
    """The ``labels`` of a view whose settings, of type ``kind``, are lists: one label for each way to combine their values.

    A label is the view's name, and ``.<value>`` for each value that is not the default (``.<setting><value>`` for a
    number, ``.no_<setting>`` for a switch that is off): ``gem``, ``gem.inside_minus_outside``, ``gem.side224``,
    ``region_token.no_reference``. An argument that is None is left to the view.
    """

    def labels(settings: Any) -> dict[str, Mapping[str, Any]]:
        given = _checked(f"embed_masks.settings.{name}", kind, settings.settings.get(name, {}))
        usual = {field: values[0] for field, values in kind().config().items()}
        found: dict[str, Mapping[str, Any]] = {}
        for values in product(*given.values()):
            arguments = dict(zip(given, values, strict=True))
            parts = [_word(field, value) for field, value in arguments.items() if value != usual[field]]
            found[".".join([name, *parts])] = {field: v for field, v in arguments.items() if v is not None}
        return found

    return labels


def arguments_from(name: str, kind: type[Params], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one label, checked, with the defaults of those that are not ``given``.

    Raises:
        ParameterError: a setting that the view does not have, or a value that it cannot take.
    """
    listed = _checked(f"view {name}", kind, {field: [value] for field, value in given.items()})
    return {field: values[0] for field, values in listed.items() if values[0] is not None}


def _word(field: str, value: Any) -> str:
    if isinstance(value, bool):
        return field if value else f"no_{field}"
    return value if isinstance(value, str) else f"{field}{value}"


def _checked(where: str, kind: type[Params], values: Any) -> dict[str, list[Any]]:
    try:
        return kind.model_validate(values).config()
    except ValidationError as error:
        said = "; ".join(f"{fault['loc'][0]}: {fault['msg']}, got {fault['input']!r}" for fault in error.errors())
        raise ParameterError(f"{where}: {said}; it knows {', '.join(kind.model_fields)}") from None
