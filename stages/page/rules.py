"""What each rule is, and what it adds over the run's own rule on which expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.page.data import Data
from stages.scoring.comparison import Both, by_words, versus
from stages.scoring.metrics import outcome_of_choice
from stages.scoring.rules.known import RULES
from stages.scoring.rules.registry import checked, label_of
from store.schema import members

Json = dict[str, Any]
CLASSES = ("all", "a position word", "a relation word", "an ordinal")


def rules(data: Data) -> list[Json]:
    """Every rule of the run: ``label``, ``formula``, ``needs``, ``cost``, and for rules beside the run's own
    ``gains``: a line for each data set, with what `stages.scoring.comparison.versus` says of each of ``CLASSES``.

    Splits of a data set are taken together. A cell is None where no expression is of the class, or without a bootstrap.
    """
    kept = members(data.scores.columns, "chosen")  # without those whose view the main encoder does not offer
    names = [str(name) for name in data.scores.attrs["rules"] if name in kept]
    of_classes = list(classes(data).values())
    return [
        {**_record(data, name), "rule": name, "label": label_of(name), "gains": _gains(data, name, of_classes)}
        for name in names
    ]


def _record(data: Data, name: str) -> Json:
    """What the rule's record says; empty for one that this process does not know, an extension's that is gone."""
    if name not in RULES:
        return {"formula": "", "needs": "", "cost": ""}
    rule, settings = RULES[name], data.scores.attrs["config"].get("settings", {}).get(name, {})
    cells = rule.needs(data.scoring, checked(rule.settings, settings, name))
    return {
        "formula": rule.formula,
        "needs": ", ".join(dict.fromkeys(f"{view} × {text}" for view, text in cells)),
        "cost": rule.cost,
    }


def _gains(data: Data, name: str, of_classes: Sequence[NDArray[np.int64]]) -> list[Json]:
    if name == data.main:
        return []
    config = data.scores.attrs["config"]
    resamples, seed = int(config.get("resamples", 0)), int(config.get("seed", 0))
    counts = [data.pairs[column] for column in ("expression_offsets", "intersection", "union", "expression_area")]
    own, main = (outcome_of_choice(data.chosen(rule), *counts) for rule in (name, data.main))
    whole = Both(own, main, data.pairs["expression_image"])
    lines = []
    for dataset in data.datasets:
        groups = [group for group in data.measured if data.groups[group][0] == dataset]
        inside = np.isin(data.group, groups) & data.evaluated
        cells = []
        for rows in of_classes:
            both = whole.at(rows[inside[rows]]).counted(data.scoring.empty)
            found = versus(both, resamples, seed)
            cells.append({**found, "n": len(both.image)} if found else None)
        if any(cells):
            lines.append({"dataset": dataset, "cells": cells})
    return lines


def classes(data: Data) -> dict[str, NDArray[np.int64]]:
    """Name in ``CLASSES`` -> the rows of its expressions."""
    words = [by_words(list(data.parse[column])).get("any", np.zeros(0, np.int64)) for column in _WORDS]
    everything = np.arange(len(data.group))
    return dict(zip(CLASSES, (everything, *words, np.flatnonzero(data.parse["ordinal"][:, 0] > 0)), strict=True))


_WORDS = ("position_words", "relation_words")
