"""Stage score: the chosen mask of every expression and the metrics, from the pair table alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.contract import Context, Summary
from stages.contract import Paths as BasePaths
from stages.scoring.comparison import TOO_FEW, Both, versus
from stages.scoring.fusion import Floats, fused_scores
from stages.scoring.metrics import Outcome, bootstrap, iou_of, metrics_by_encoder, outcome_of_random, summarise
from stages.scoring.others import columns_of
from stages.scoring.plots import iou_table, rules_table, summary_text
from stages.scoring.rules.known import RULES
from stages.scoring.rules.registry import REFERENCES, Rule, Rules
from stages.scoring.table import Bootstrap, MissingViewError, PairTable, Scoring, load_pairs
from store.agreement import agrees_with
from store.document import RUN, read_document, write_document
from store.errors import ParameterError, StoreError, nearest, rerun
from store.publish import remove_leftovers, write_file
from store.states import State, left_out
from store.table import write_table
from store.usable import LOST_SHARE

__all__ = ["RULES", "Params", "Paths", "choose", "fused_scores", "metrics_of", "rule_scores", "run"]


class Params(Scoring, Bootstrap, Rules):
    """The point at which is scored, the rules, and confidence intervals."""

    encoder: str = Field("", description="the main encoder, of which the choices are the run's own")


class Paths(BasePaths):
    pair_tables: Path
    scores: Path
    metrics: Path
    summary: Path
    rules_plot: Path
    iou_plot: Path
    outputs: ClassVar[tuple[str, ...]] = ("scores", "metrics", "summary", "rules_plot", "iou_plot")


@dataclass(frozen=True)
class Scored:
    """What the rules make of one encoder's pair table: scores (P,), choices (E,) and metrics by rule.

    ``absent``: the rules that read a view which this encoder does not offer.
    """

    pairs: PairTable
    attrs: dict[str, Any]
    scores: dict[str, Floats]
    chosen: dict[str, NDArray[np.int64]]
    metrics: dict[str, Any]
    absent: dict[str, MissingViewError]


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the scores table and the metrics file: data set -> split -> rule -> value, for the main encoder, and the same
    under the name of each other one.

    A metrics file of the same numbers stays as it is; the scores table says what this run found.
    """
    summary = Summary()
    files = _tables(params, paths.pair_tables, context)
    scored = {name: _score(name, path, params, list(files), summary) for name, path in files.items()}
    main = next(iter(scored.values()))
    _require_scored(params, scored, summary)
    for name, other in scored.items():
        if any(
            other.attrs["made_from"][source] != main.attrs["made_from"][source] for source in ("index", "proposals")
        ):
            raise StoreError(
                f"{files[name]}: expected the expressions and proposals of the main encoder's table, got others; "
                f"{rerun('pair')}"
            )
    columns: dict[str, Any] = {"score": main.scores[params.enabled[0]]}
    for name, each in scored.items():
        prefix = "" if each is main else f"{name}:"
        columns |= {f"chosen.{prefix}{rule}": rows for rule, rows in each.chosen.items()}
    others = {name: each for name, each in scored.items() if each is not main}
    metrics = {**main.metrics, **{name: each.metrics for name, each in others.items()}}
    identities = {name: each.attrs["encoder"] for name, each in scored.items()}
    run_of = {
        "encoder": main.attrs["encoder"],
        "encoders": identities,
        "values": {**main.attrs["configs"], "score": params.config()},
        "pairs": main.attrs["digest"],
        **context.identity,
    }
    made_from = {
        "pairs": main.attrs["digest"],
        **{f"pairs@{name}": each.attrs["digest"] for name, each in others.items()},
    }
    attributes = {"rules": params.enabled, "metrics": metrics, "encoders": identities}
    write_table(paths.scores, "scores", columns, params.config(), made_from, **attributes)
    if agrees_with(paths.metrics, "score", {**metrics, RUN: run_of}):
        remove_leftovers(paths.metrics.parent, paths.metrics.name)  # of a killed run, which a write removes otherwise
    else:
        write_document(paths.metrics, metrics, "score", run_of)
    _write_views_of_dvc(params, paths, main, metrics_by_encoder(read_document(paths.metrics, "score"))[""])
    summary.wrote = {"expressions": len(main.pairs.group), "splits": len(main.pairs.groups), "encoders": len(scored)}
    return summary


def _write_views_of_dvc(params: Params, paths: Paths, main: Scored, metrics: Mapping[str, Any]) -> None:
    """Write what `dvc metrics` and `dvc plots` show, from the numbers of the metrics file."""
    rule = params.enabled[0]
    write_file(paths.summary, summary_text(metrics, rule))
    write_file(paths.rules_plot, rules_table(metrics))
    write_file(paths.iou_plot, iou_table(main.pairs, main.chosen, rule))


def _tables(params: Params, folder: Path, context: Context) -> dict[str, Path]:
    """Encoder -> its pair table, the main one first: of the profile's encoders, without one of all that lie there."""
    known = sorted(file.stem for file in folder.glob("*.h5"))
    names = list(context.profile.encoders) if context.profile is not None else known
    main = params.encoder or next(iter(names), "")
    if main not in names:
        raise StoreError(
            f"{folder}: expected the pair table of encoder {main!r}; {nearest(main, known)}; {rerun('pair')}"
        )
    return {name: folder / f"{name}.h5" for name in dict.fromkeys([main, *names])}


def _score(name: str, path: Path, params: Params, encoders: list[str], summary: Summary) -> Scored:
    """The scores, choices and metrics of one encoder; rules that it lacks a view for are left out.

    ``encoders``: of the run, the main one first.
    """
    main = name == encoders[0]
    params = params if main else params.for_encoder(name, encoders)
    with summary.timed("read"):
        pairs, attrs = load_pairs(path, params.k)
    for what, count in {"expressions": len(pairs.group), "pairs": len(pairs.union)}.items():
        summary.read[what] = summary.read.get(what, 0) + count
    with summary.timed("score"):
        absent: dict[str, MissingViewError] = {}
        scores = rule_scores(pairs, params, absent if len(encoders) > 1 else None)
        chosen = choose(pairs, scores, params)
        metrics = metrics_of(pairs, params, chosen)
    of = "" if main else f"encoder {name}: "
    for group, (dataset, split) in enumerate(pairs.groups):
        if main and len(np.unique(pairs.image[pairs.members(group)])) == 1:
            summary.warnings.append(f"{dataset} {split}: {TOO_FEW}")
    for dataset, splits in metrics.items():
        for split, content in splits.items():
            counts = content["counts"]
            if counts["not_evaluated"] - counts[State.NOT_ANNOTATED] > LOST_SHARE * counts["expressions"]:
                summary.warnings.append(
                    f"{of}{dataset} {split}: expressions left out of the metrics: {left_out(counts)}"
                )
    return Scored(pairs, attrs, scores, chosen, metrics, absent)


def _require_scored(params: Params, scored: Mapping[str, Scored], summary: Summary) -> None:
    """Raise the MissingViewError of a rule that no encoder can serve, or that is the run's own and the main one cannot;
    say which rules are left out for which encoder."""
    main = next(iter(scored.values()))
    for rule in params.enabled:
        if all(rule in each.absent for each in scored.values()) or (rule == params.enabled[0] and rule in main.absent):
            raise main.absent[rule]
    for name, each in scored.items():
        if each.absent:
            summary.skipped.append(
                f"encoder {name} has no view for the rules {', '.join(each.absent)}: not scored for it"
            )


def rule_scores(
    pairs: PairTable, params: Params, absent: dict[str, MissingViewError] | None = None
) -> dict[str, Floats]:
    """The scores of all pairs (P,) by each enabled rule, -inf for one that is lost; ``pairs`` unfiltered.

    Args:
        absent: gets the rules that need a view which the table lacks, with the error; without it they are errors.
    """
    scores = {}
    for rule, settings in params.chosen():
        try:
            scores[rule.name] = _finite(rule, rule.scores(pairs, params, settings), pairs)
        except MissingViewError as error:
            if absent is None:
                raise
            absent[rule.name] = error
    return scores


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

    Every rule but the first and the references has ``versus``: its mIoU less the first rule's, over the same resamples of
    images (`stages.scoring.comparison.versus`). The upper bound is above by how it chooses, and the random rule chooses
    nothing, so neither has one.
    """
    kept = pairs.filtered(params)
    outcomes = {rule: pairs.outcome(rows) for rule, rows in chosen.items()}
    outcomes["random"] = outcome_of_random(kept.offsets, kept.intersection, kept.union, kept.area)
    metrics: dict[str, Any] = {}
    first = params.enabled[0]
    for group, (dataset, split) in enumerate(pairs.groups):
        rows = pairs.members(group)
        by_rule = {
            rule: _rule_metrics(outcome.at(rows), pairs.image[rows], params) for rule, outcome in outcomes.items()
        }
        others = [rule for rule in by_rule if rule not in (first, *REFERENCES) and first in by_rule]
        for rule in others:
            both = Both(outcomes[rule].at(rows), outcomes[first].at(rows), pairs.image[rows]).counted(params.empty)
            if found := versus(both, params.resamples, params.seed):
                by_rule[rule]["versus"] = {"rule": first, **found}
        metrics.setdefault(dataset, {})[split] = {
            **by_rule,
            "counts": _counts(pairs, kept, next(iter(chosen.values())), group),
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
        **_lost_maps(pairs, group),
    }


def _lost_maps(pairs: PairTable, group: int) -> dict[str, int]:
    """Kind of heat map -> evaluated expressions of a group with proposals, none of which has a mean of it; {} without maps."""
    columns = columns_of(pairs)
    rows = pairs.members(group)
    rows = rows[np.diff(pairs.offsets)[rows] > 0]
    lost = {}
    for kind in columns.maps:
        known = np.concatenate([[0], np.cumsum(~np.isnan(columns.heat(kind, "inside")))])
        lost[f"lost_{kind}_maps"] = int((known[pairs.offsets[rows + 1]] == known[pairs.offsets[rows]]).sum())
    return lost
