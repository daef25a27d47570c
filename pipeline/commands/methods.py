"""What a profile could compute with, and whether it can as it is: ``glimpse methods``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from pipeline.project import LoadedProject, model_path
from stages.clip.backbone import BACKBONES
from stages.clip.config import backbone_named
from stages.heat_maps.known import HEAT_MAPS
from stages.heat_maps.registry import HeatMapKind
from stages.scoring.heat import heat_name
from stages.scoring.products import TEXTS, dot_name
from stages.scoring.rules.known import RULES
from stages.scoring.rules.registry import Rule, checked
from stages.views.known import VIEWS
from stages.views.registry import View, labels_of
from store.errors import GlimpseError, nearest

Kind = Literal["view", "text", "heat", "rule", "backbone", "encoder"]
_TEXTS = {"sentence": "parse.sentence", "phrase": "parse.noun_phrase"}
"""Text -> the column that it is made from."""


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    Attributes:
        name: as the params file has it. kind: what of.
        needs: of a view or a heat map the kinds of encoders that offer it; of a text the column that it is made from; of a
            rule the cells ``dot.<view>*<text>`` and heat maps that it reads; of an encoder its files; of a backbone nothing.
        cost: one phrase. available: whether the profile as it is can compute it; reason: why not, "" where it can.
    """

    name: str
    kind: Kind
    needs: list[str]
    cost: str
    available: bool
    reason: str


def methods(project: LoadedProject) -> list[Entry]:
    """Every view, text, kind of heat map, rule, kind of encoder and encoder, with those of the profile's extensions."""
    backbones = {name: _backbone(project, name) for name in project.values.encoders}
    return [
        *(_view(project, VIEWS[name], backbones) for name in VIEWS),
        *(Entry(text, "text", [_TEXTS[text]], "one text forward pass per distinct string", True, "") for text in TEXTS),
        *(_heat(project, HEAT_MAPS[name], backbones) for name in HEAT_MAPS),
        *(_rule(project, RULES[name], backbones) for name in RULES),
        *(_kind(name, backbones) for name in BACKBONES),
        *(_encoder(project, name, backbones[name]) for name in backbones),
    ]


def _entry(name: str, kind: Kind, needs: list[str], cost: str, reason: str) -> Entry:
    return Entry(name, kind, needs, cost, not reason, reason)


def _backbone(project: LoadedProject, encoder: str) -> tuple[str, str]:
    """The kind of an encoder, and why that is not known."""
    try:
        return backbone_named(model_path(project, project.values.encoders[encoder].model)).name, ""
    except GlimpseError as error:
        return "", str(error)


def _view(project: LoadedProject, view: View, backbones: dict[str, tuple[str, str]]) -> Entry:
    needs = [name for name in BACKBONES if view.offered_by(name)]
    return _entry(view.name, "view", needs, view.cost, _why_no_view(project, view, list(backbones.values())))


def _why_no_view(project: LoadedProject, view: View, backbones: list[tuple[str, str]]) -> str:
    """Why none of these encoders makes vectors of ``view``, "" where one does."""
    if view.name not in project.values.embed_masks.views:
        return f"not enabled: add {view.name} to embed_masks.views"
    if any(view.offered_by(kind) for kind, unknown in backbones if not unknown):
        return ""
    if unknown := next((why for _, why in backbones if why), ""):
        return f"the kind of the encoder is not known: {unknown}"
    return f"no encoder of kind {' or '.join(view.backbones)}: add one to encoders"


def _heat(project: LoadedProject, kind: HeatMapKind, backbones: dict[str, tuple[str, str]]) -> Entry:
    needs = [name for name in BACKBONES if kind.offered_by(name)]
    cost = f"{kind.cost}; trained on {kind.trained_on}: not zero-shot there" if kind.trained_on else kind.cost
    return _entry(kind.name, "heat", needs, cost, _why_no_map(project, kind.name, list(backbones.values())))


def _why_no_map(project: LoadedProject, name: str, backbones: list[tuple[str, str]]) -> str:
    """Why none of these encoders has maps of kind ``name``, "" where one does."""
    if name not in HEAT_MAPS:
        return f"there is no heat map {name}; {nearest(name, HEAT_MAPS)}"
    kind = HEAT_MAPS[name]
    if name not in project.values.heat.maps:
        return f"not enabled: add {name} to heat.maps"
    if kind.files is not None:
        try:
            kind.files(project.path(project.values.heat.folder), project.values.heat.chosen()[name])
        except GlimpseError as error:
            return str(error)
    if any(kind.offered_by(backbone) for backbone, unknown in backbones if not unknown or not kind.backbones):
        return ""
    if unknown := next((why for _, why in backbones if why), ""):
        return f"the kind of the encoder is not known: {unknown}"
    return f"no encoder of kind {' or '.join(kind.backbones)}: add one to encoders"


def _rule(project: LoadedProject, rule: Rule, backbones: dict[str, tuple[str, str]]) -> Entry:
    """Whether the main encoder can be scored by it; the others leave out what they cannot."""
    values = project.values
    settings = checked(rule.settings, values.rules.settings.get(rule.name, {}), rule.name)
    cells = rule.needs(values.score, settings)
    kind, unknown = backbones[values.encoder]
    maps = rule.maps(settings)
    why = _first(dict.fromkeys(cell[0] for cell in cells), lambda label: _why_no_label(project, label, kind, unknown))
    why = why or _first(maps, lambda name: _why_no_map(project, name, [(kind, unknown)]))
    needs = [*(dot_name(*cell) for cell in cells), *(heat_name(name, "inside") for name in maps)]
    return _entry(rule.name, "rule", needs, rule.cost, why)


def _why_no_label(project: LoadedProject, label: str, kind: str, unknown: str) -> str:
    """Why the main encoder's pair table has no view ``label``, "" where it has."""
    settings = project.values.embed_masks
    labels = labels_of(settings.views, settings)
    if label not in labels:
        name = label.partition(".")[0]
        if name not in settings.views:
            return f"needs view {label}: add {name} to embed_masks.views"
        return f"needs view {label}, which the settings of embed_masks do not give; {nearest(label, labels)}"
    view = labels[label][0]
    if unknown:
        return f"the kind of encoder {project.values.encoder} is not known: {unknown}" if view.backbones else ""
    if view.offered_by(kind):
        return ""
    return f"needs view {label}, which encoder {project.values.encoder} of kind {kind} does not offer"


def _kind(name: str, backbones: dict[str, tuple[str, str]]) -> Entry:
    found = any(kind == name for kind, _ in backbones.values())
    unknown = next((why for _, why in backbones.values() if why), "")
    reason = unknown if not found and unknown else "" if found else f"no encoder of kind {name}: add one to encoders"
    return _entry(name, "backbone", [], "one encoder of this kind: the features of all masks and texts, once", reason)


def _encoder(project: LoadedProject, name: str, backbone: tuple[str, str]) -> Entry:
    encoder = project.values.encoders[name]
    needs = [encoder.model] if encoder.model.endswith(".json") else []
    needs.append(str(encoder.weights))
    absent = _first(needs, lambda file: "" if project.path(file).exists() else f"{project.path(file)} is not there")
    return _entry(name, "encoder", needs, "the features of all masks and texts, once", backbone[1] or absent)


def _first(names: Iterable[str], why: Callable[[str], str]) -> str:
    """The first reason that ``why`` gives for one of ``names``, "" for none."""
    return next(filter(None, map(why, names)), "")


def as_json(entries: list[Entry]) -> str:
    """A JSON list of objects with the attributes of `Entry`."""
    return json.dumps([asdict(entry) for entry in entries], indent=1)


def print_methods(entries: list[Entry]) -> None:
    """For people: each kind, its names with "+" where they are available, what they cost and need, and why they are not."""
    width = max(len(entry.name) for entry in entries) + 2
    for place, entry in enumerate(entries):
        if not place or entries[place - 1].kind != entry.kind:
            print(f"\n{entry.kind}")
        print(f"  {'+' if entry.available else '-'} {entry.name:{width}}{entry.cost}")
        said = [f"needs {', '.join(entry.needs)}"] if entry.needs else []
        for line in [*said, *([entry.reason] if entry.reason else [])]:
            print(f"    {'':{width}}{line}")
