"""Settings of a view in the params file, ``embed_masks.settings.<view>``, and the labels that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import product
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from stages.contract import Params
from stages.views.registry import Features, View, ViewPass, one_by_one
from store.errors import ParameterError

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder


def labels_from(name: str, kind: type[Params]) -> Callable[[Any], dict[str, Mapping[str, Any]]]:
    """The ``labels`` of a view whose settings, of type ``kind``, are lists: one label for each way to combine their values.

    A label is the view's name, and ``.<value>`` for each value that is not the default (``.<setting><value>`` for a
    number, ``.no_<setting>`` for a switch that is off): ``gem``, ``gem.inside_minus_outside``, ``gem.side224``,
    ``region_token.no_reference``. An argument that is None is left to the view.
    """

    def labels(settings: Any) -> dict[str, Mapping[str, Any]]:
        given = _checked(f"embed_masks.settings.{name}", kind, settings.settings.get(name, {}))
        usual = {field: values[0] for field, values in kind().config().items()}
        by_label: dict[str, Mapping[str, Any]] = {}
        for values in product(*given.values()):
            arguments = dict(zip(given, values, strict=True))
            parts = [_word(field, value) for field, value in arguments.items() if value != usual[field]]
            by_label[".".join([name, *parts])] = {field: v for field, v in arguments.items() if v is not None}
        return by_label

    return labels


def arguments_from(name: str, kind: type[Params], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one label, checked, with the defaults of those that are not ``given``.

    Raises:
        ParameterError: a setting that the view does not have, or a value that it cannot take.
    """
    listed = _checked(f"view {name}", kind, {field: [value] for field, value in given.items()})
    return {field: values[0] for field, values in listed.items() if values[0] is not None}


def view_of(
    module: str,
    name: str,
    meaning: str,
    kind: type[Params],
    features: Features,
    *,
    reads_boxes: bool = False,
    backbones: tuple[str, ...] = (),
    cost: str = "not stated",
) -> View:
    """A view of one image at a time whose settings, of type ``kind``, are the arguments of ``features``."""

    def open_pass(encoder: MaskEncoder, labels: Mapping[str, Mapping[str, Any]]) -> ViewPass:
        checked = {label: arguments_from(name, kind, values) for label, values in labels.items()}
        return one_by_one(features)(encoder, checked)

    return View(
        module=module,
        name=name,
        meaning=meaning,
        labels=labels_from(name, kind),
        open=open_pass,
        reads_boxes=reads_boxes,
        backbones=backbones,
        cost=cost,
    )


def _word(field: str, value: Any) -> str:
    if isinstance(value, bool):
        return field if value else f"no_{field}"
    return value if isinstance(value, str) else f"{field}{value}"


def _checked(where: str, kind: type[Params], values: Any) -> dict[str, list[Any]]:
    try:
        return kind.model_validate(values).config()
    except ValidationError as error:
        faults = "; ".join(_fault(kind, fault) for fault in error.errors())
        raise ParameterError(f"{where}: {faults}; it knows {', '.join(kind.model_fields)}") from None


def _fault(kind: type[Params], fault: Any) -> str:
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        close = get_close_matches(name, kind.model_fields, n=1)
        return f"there is no setting {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    return f"{name}: {fault['msg'].replace('Input should be', 'expected')}, got {fault['input']!r}"
