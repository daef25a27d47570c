"""The scores of a rule for every pair, computed again from the pair table as stage score did.

The scores table keeps the scores of the first rule only, but the choices of all: what is computed here must choose the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.commands.scored_runs import Run
from stages.score import Params, rule_scores
from stages.scoring.fusion import Floats
from stages.scoring.metrics import iou_of
from stages.scoring.table import PairTable, load_pairs
from store.errors import ParameterError, StoreError, rerun
from store.table import Table, require_same

BOUND = "upper_bound"


@dataclass(frozen=True)
class Ranking:
    """A rule, or the upper bound, on the pair table of an encoder.

    Attributes:
        name: as in ``chosen.<name>``: RULE, or ENCODER:RULE of an encoder beside the main one.
        pairs: the table, unfiltered. params: the values that the run was scored with, for this encoder.
        scores: (P,), -inf for a pair that must not be chosen; IoU for the upper bound.
        chosen: position among the expression's pairs (E,), -1 for none.
    """

    name: str
    pairs: PairTable
    params: Params
    scores: Floats
    chosen: NDArray[np.int64]

    @property
    def encoder(self) -> str:
        """The encoder, "" for the main one."""
        return self.name.rpartition(":")[0]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """The pairs that the filters keep and whose features are not lost, bool (P,)."""
        pairs = self.pairs
        return self.params.keeps(pairs.proposal_score, pairs.proposal_area, pairs.kept) & ~pairs.lost

    @property
    def counted(self) -> NDArray[np.bool_]:
        """The expressions that the metrics of this rule are a mean over, bool (E,)."""
        counted: NDArray[np.bool_] = self.pairs.evaluated
        return counted & (self.chosen >= 0) if self.params.empty == "skip" else counted

    def best(self) -> NDArray[np.float64]:
        """The score of each expression's chosen pair, float64 (E,); NaN without one."""
        best = np.full(len(self.chosen), np.nan)
        decided = self.chosen >= 0
        best[decided] = self.scores[(self.pairs.offsets[:-1] + self.chosen)[decided]]
        return best

    def margins(self) -> NDArray[np.float64]:
        """By how much the chosen pair's score is above the next one's, float64 (E,); NaN where no other takes part."""
        offsets, decided = self.pairs.offsets, self.chosen >= 0
        rest = np.where(self.kept, self.scores, -np.inf).astype(np.float64)
        rest[(offsets[:-1] + self.chosen)[decided]] = -np.inf
        second = np.full(len(self.chosen), -np.inf)
        filled = np.flatnonzero(np.diff(offsets))
        if len(filled):
            second[filled] = np.maximum.reduceat(rest, offsets[:-1][filled])
        second[second == -np.inf] = np.nan
        margins: NDArray[np.float64] = self.best() - second
        return margins


def rankings(run: Run, names: Sequence[str]) -> dict[str, Ranking]:
    """The rankings behind the columns ``chosen.<name>`` of a run, in the order of ``names``.

    Raises:
        StoreError: the pair table is another one than the run was scored from, or the rules choose otherwise now.
        ParameterError: a rule scores a chosen pair with infinity.
    """
    by_encoder: dict[str, list[str]] = {}
    for name in names:
        encoder, _, rule = name.rpartition(":")
        by_encoder.setdefault(encoder, []).append(rule)
    found = {each.name: each for encoder, rules in by_encoder.items() for each in _of_encoder(run, encoder, rules)}
    return {name: found[name] for name in names}


def _of_encoder(run: Run, encoder: str, rules: list[str]) -> list[Ranking]:
    """The rankings of some rules on one encoder's table; "" is the main one."""
    wanted = [rule for rule in rules if rule != BOUND]
    params = _recorded(run, wanted)
    if encoder:
        others = [name for name in run.scores.attrs["encoders"] if name != run.encoder]
        params = params.for_encoder(encoder, [run.encoder, *others])
    path = run.path("pairs", encoder)
    pairs, attrs = load_pairs(path, params.k)
    require_same("results", (run.scores, f"pairs@{encoder}" if encoder else "pairs", Table(path, {}, attrs)))
    by_rule: dict[str, Floats] = {BOUND: iou_of(pairs.intersection, pairs.union)}
    by_rule |= rule_scores(pairs, params) if wanted else {}
    found = []
    for rule in rules:
        name, scores = f"{encoder}:{rule}" if encoder else rule, by_rule[rule]
        chosen = pairs.choice(scores, params)
        _require_same_choices(run, name, chosen)
        ranking = Ranking(name, pairs, params, scores, chosen)
        if np.isinf(ranking.best()).any():
            raise ParameterError(
                f"rule {rule}: expected finite scores of the chosen pairs, got infinity; correct the rule"
            )
        found.append(ranking)
    return found


def _recorded(run: Run, rules: list[str]) -> Params:
    """The values that the run was scored with, for these rules alone; for none, of its first rule."""
    config = dict(run.scores.attrs["config"])
    enabled = rules or run.scores.attrs["rules"][:1]
    settings = {name: values for name, values in config.get("settings", {}).items() if name in enabled}
    try:
        return Params.model_validate({**config, "enabled": enabled, "settings": settings})
    except ValidationError as error:
        raise StoreError(
            f"{run.scores.path}: its values are not those of this version of stage score ({error.errors()[0]['msg']}); "
            f"{rerun('score')}"
        ) from error


def _require_same_choices(run: Run, name: str, chosen: NDArray[np.int64]) -> None:
    other = np.flatnonzero(chosen != run.scores[f"chosen.{name}"])
    if len(other):
        raise StoreError(
            f"{run.scores.path}: expected the choices that rule {name} makes of its pair table, found others for "
            f"{len(other):,} of {len(chosen):,} expressions, the first is row {other[0]}: the rule's code has changed since; "
            f"{rerun('score')}"
        )
