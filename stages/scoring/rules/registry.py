"""Rules: named formulas from the columns of the pair table to a score for every pair, and the registry of them.

A rule is a file of this folder with one record; the proposal with the highest score is chosen, the first one on ties. What
a rule needs it reads from ``PairTable.columns``: products of views and texts, geometry, the generator's confidence. Every
table of numbers asks here for the rules and their names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from stages.contract import Listed, Params
from stages.scoring.fusion import Floats
from stages.scoring.table import PairTable, Scoring
from store.errors import ParameterError
from store.registry import Record, Registry

Cell = tuple[str, str]
"""A column ``dot.<view>*<text>``: (label of the view, text)."""


def no_maps(settings: Any) -> list[str]:
    """The ``maps`` of a rule that reads no heat map."""
    return []


def no_cells(scoring: Scoring, settings: Any) -> list[Cell]:
    """The ``needs`` of a rule that reads no view."""
    return []


@dataclass(frozen=True, kw_only=True)
class Rule(Record):
    """How proposals are ranked.

    Attributes:
        name: as in ``rules.enabled`` and in the metrics. label: for people. formula: one line, for people.
        scores: ``(pairs, scoring, settings) -> (P,)``, higher is better; ``pairs`` unfiltered, with ``columns``;
            ``scoring`` the profile's section score; ``settings`` of type ``settings``.
        settings: the rule's own parameters, given in ``rules.settings.<name>``.
        needs: ``(scoring, settings)`` -> the cells that the scores depend on, views by their labels.
        maps: from the settings to the kinds of heat maps that the scores depend on.
        cost: what it takes once the pair table is there, one phrase for people.
    """

    label: str
    formula: str
    scores: Callable[[PairTable, Scoring, Any], Floats]
    settings: type[Params] = Params
    needs: Callable[[Scoring, Any], list[Cell]] = no_cells
    maps: Callable[[Any], list[str]] = no_maps
    cost: str = "arithmetic over the pair table"


RULES: Registry[Rule] = Registry("rule", "rules")
REFERENCES = {"upper_bound": "Upper bound", "random": "Random proposal"}
"""What every rule is compared with: the best proposal of each expression, and the expectation of a uniform choice."""


class Rules(Params):
    """The rules of a run."""

    enabled: Listed[str] = Field(
        ["global_local", "global", "cropping"],
        min_length=1,
        description="rules by name (stages/scoring/rules); the first one is the run's own, which pictures and scores show",
    )
    settings: dict[str, dict[str, Any]] = Field({}, description="rule -> its own settings, of rules that have any")

    @field_validator("enabled")
    @classmethod
    def _are_known(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(RULES.checked(name) for name in names))

    def chosen(self) -> list[tuple[Rule, Any]]:
        """Each enabled rule with its settings.

        Raises:
            ParameterError: settings of a rule that is not enabled, or that it does not have.
        """
        for name in self.settings:
            if name not in self.enabled:
                raise ParameterError(f"rules.settings.{name}: rule {name!r} is not among rules.enabled; add it there")
        return [
            (RULES[name], checked(RULES[name].settings, self.settings.get(name, {}), name)) for name in self.enabled
        ]


def checked(kind: type[Params], values: dict[str, Any], name: str) -> Params:
    """The settings of a rule as its own type.

    Raises:
        ParameterError: what was expected and what came.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ParameterError(
            f"rules.settings.{name}: {faults}; it knows {', '.join(kind.model_fields) or 'none'}"
        ) from None


def label_of(rule: str) -> str:
    """The name of a rule or reference for people, also of one that this process does not know."""
    if rule in RULES:
        return RULES[rule].label
    return REFERENCES.get(rule, rule.replace("_", " "))
