"""Stage score: the chosen mask of every expression and the metrics, from the pair table alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.contract import Context, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.scoring.fusion import Floats, fused_scores
from stages.scoring.metrics import Outcome, bootstrap, iou_of, outcome_of_random, summarise
from stages.scoring.rules.known import RULES
from stages.scoring.rules.registry import Rule, Rules
from stages.scoring.table import PairTable, Scoring, load_pairs
from store.agreement import agrees_with
from store.document import RUN, write_document
from store.errors import ParameterError
from store.states import State, left_out
from store.table import write_table
from store.usable import LOST_SHARE

__all__ = ["RULES", "Params", "Paths", "choose", "fused_scores", "metrics_of", "rule_scores", "run"]


class Bootstrap(BaseParams):
    """The confidence intervals: percentile bootstrap over images."""

    resamples: int = Field(1000, ge=0, le=100_000, description="0 for no intervals")
    seed: int = Field(0, ge=0, description="of the resampling")


class Params(Scoring, Bootstrap, Rules):
    """The point at which is scored, the rules, and confidence intervals."""


class Paths(BasePaths):
    pairs: Path
    scores: Path
    metrics: Path
    outputs: ClassVar[tuple[str, ...]] = ("scores", "metrics")


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the scores table and the metrics file: data set -> split -> rule -> value.

    A metrics file of the same numbers stays as it is; the scores table says what this run found.
    """
    summary = Summary()
    with summary.timed("read"):
        pairs, attrs = load_pairs(paths.pairs, params.k)
    summary.read = {"expressions": len(pairs.group), "pairs": len(pairs.union)}
    with summary.timed("score"):
        scores = rule_scores(pairs, params)
        chosen = choose(pairs, scores, params)
        metrics = metrics_of(pairs, params, chosen)
    for dataset, splits in metrics.items():
        for split, content in splits.items():
            counts = content["counts"]
            if counts["not_evaluated"] > LOST_SHARE * counts["expressions"]:
                summary.warnings.append(f"{dataset} {split}: expressions left out of the metrics: {left_out(counts)}")
    columns = {"score": scores[params.enabled[0]], **{f"chosen.{rule}": rows for rule, rows in chosen.items()}}
    run_of = {
        "encoder": attrs["encoder"],
        "values": {**attrs["configs"], "score": params.config()},
        "pairs": attrs["digest"],
        **context.identity,
    }
    attributes = {"rules": params.enabled, "metrics": metrics}
    write_table(paths.scores, "scores", columns, params.config(), {"pairs": attrs["digest"]}, **attributes)
    if not agrees_with(paths.metrics, "score", {**metrics, RUN: run_of}):
        write_document(paths.metrics, metrics, "score", run_of)
    summary.wrote = {"expressions": len(pairs.group), "splits": len(pairs.groups)}
    return summary


def rule_scores(pairs: PairTable, params: Params) -> dict[str, Floats]:
    """The scores of all pairs (P,) by each enabled rule, -inf for one that is lost; ``pairs`` unfiltered."""
    return {rule.name: _finite(rule, rule.scores(pairs, params, settings), pairs) for rule, settings in params.chosen()}


def _finite(rule: Rule, scores: Floats, pairs: PairTable) -> Floats:
    """``scores``, checked to be one number for every pair: a NaN would win or lose by accident."""
    if scores.shape != pairs.union.shape:
        raise ParameterError(
            f"rule {rule.name}: expected {len(pairs.union)} scores, one for each pair, got {scores.shape}"
        )
    bad = np.flatnonzero(np.isnan(scores))
    if len(bad):
        raise ParameterError(
            f"rule {rule.name}: expected a number for every pair, got none for {len(bad)}, the first is pair {bad[0]}; "
            f"-inf stands for a proposal that must not be chosen"
        )
    return np.where(pairs.lost, -np.float32(np.inf), scores.astype(np.float32, copy=False))


def choose(pairs: PairTable, scores: Mapping[str, Floats], params: Scoring) -> dict[str, NDArray[np.int64]]:
    """For each rule the chosen proposal of every expression (E,), a position among the image's proposals; -1 for none.

    Args:
        pairs: unfiltered. scores: of its pairs by rule (P,). ``upper_bound`` is added: the proposal of the highest IoU.
    """
    ranked = {**scores, "upper_bound": iou_of(pairs.intersection, pairs.union)}
    return {rule: pairs.choice(rule_scores, params) for rule, rule_scores in ranked.items()}


def metrics_of(pairs: PairTable, params: Params, chosen: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
    """Metrics by data set, split and rule, and the counts behind them.

    Args:
        pairs: unfiltered. chosen: by rule, see ``choose``. The random rule is the exact expectation of a uniform choice
            among the filtered proposals.
    """
    kept = pairs.filtered(params)
    outcomes = {rule: pairs.outcome(rows) for rule, rows in chosen.items()}
    outcomes["random"] = outcome_of_random(kept.offsets, kept.intersection, kept.union, kept.area)
    metrics: dict[str, Any] = {}
    for group, (dataset, split) in enumerate(pairs.groups):
        rows = pairs.members(group)
        by_rule = {
            rule: _rule_metrics(outcome.at(rows), pairs.image[rows], params) for rule, outcome in outcomes.items()
        }
        metrics.setdefault(dataset, {})[split] = {
            **by_rule,
            "counts": _counts(pairs, kept, chosen[params.enabled[0]], group),
        }
    return metrics


def _rule_metrics(outcome: Outcome, image: NDArray[np.int64], params: Params) -> dict[str, Any]:
    skip = summarise(outcome, "skip")
    counted = np.arange(len(image)) if params.empty == "count" else np.flatnonzero(outcome.decided)
    return {
        **summarise(outcome, params.empty),
        **bootstrap(outcome.at(counted), image[counted], params.resamples, params.seed),
        "skip": {name: skip[name] for name in ("oiou", "miou", "n")},
    }


def _counts(pairs: PairTable, kept: PairTable, chosen: NDArray[np.int64], group: int) -> dict[str, int]:
    rows = np.flatnonzero(pairs.group == group)
    readable = rows[pairs.state[rows] != State.UNREADABLE_IMAGE]
    without_proposals = readable[np.diff(kept.offsets)[readable] == 0]
    return {
        "expressions": len(rows),
        "refs": len(np.unique(pairs.ref[rows])),
        "images": len(np.unique(pairs.image[rows])),
        "images_without_proposals": len(np.unique(pairs.image[without_proposals])),
        "truncated_texts": int(pairs.truncated[rows].sum()),
        "lost_pairs": int(pairs.lost[np.repeat(pairs.group == group, np.diff(pairs.offsets))].sum()),
        "not_evaluated": int((~pairs.evaluated[rows]).sum()),
        "no_choice": int((chosen[pairs.members(group)] < 0).sum()),
        **{state: int((pairs.state[rows] == state).sum()) for state in State},
    }
