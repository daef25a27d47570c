"""What DVC draws and compares of a run: flat tables for `dvc plots`, one number a split for `dvc metrics` and `dvc exp`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.scoring.metrics import Outcome
from stages.scoring.rules.registry import REFERENCES
from stages.scoring.table import PairTable

BINS = 20
"""Of IoU from 0 to 1."""


def summary_of(metrics: Mapping[str, Any], rule: str) -> dict[str, dict[str, float | None]]:
    """Data set -> split -> mIoU of ``rule`` in percent, two decimals: what fits a terminal."""
    return {
        dataset: {split: _percent(content[rule]["miou"]) for split, content in splits.items()}
        for dataset, splits in metrics.items()
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def rule_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """(split, rule, mIoU in percent) of every rule and reference; the bound and the random rule last."""
    rows = []
    for dataset, splits in metrics.items():
        for split, content in splits.items():
            rules = [rule for rule in content if rule != "counts"]
            ordered = sorted(rules, key=lambda rule: rule in REFERENCES)
            rows += [(f"{dataset} {split}", rule, _percent(content[rule]["miou"])) for rule in ordered]
    return rows


def iou_rows(pairs: PairTable, outcomes: Mapping[str, Outcome]) -> list[tuple[str, str, float, float]]:
    """(split, rule, IoU, share): of each split the share of its evaluated expressions in each of ``BINS`` bins of IoU, by the
    lower edge of the bin, in percent."""
    rows = []
    for group, (dataset, split) in enumerate(pairs.groups):
        members = pairs.members(group)
        for rule, outcome in outcomes.items():
            counts, edges = np.histogram(outcome.iou[members], BINS, (0, 1))
            shares = 100 * counts / max(len(members), 1)
            rows += [
                (f"{dataset} {split}", rule, round(float(edge), 4), round(float(share), 4))
                for edge, share in zip(edges[:-1], shares, strict=True)
            ]
    return rows


def surface_rows(grid: Mapping[str, Any]) -> Iterable[tuple[str, float, float, float]]:
    """(split, alpha, beta, mIoU in percent) of every point of a grid file's content."""
    for dataset, splits in grid["splits"].items():
        for split, values in splits.items():
            for alpha, row in zip(grid["alphas"], values["miou"], strict=True):
                for beta, value in zip(grid["betas"], row, strict=True):
                    yield f"{dataset} {split}", alpha, beta, round(100 * value, 4)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV; None is an empty cell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue()


def rules_table(metrics: Mapping[str, Any]) -> str:
    """The file of ``rule_rows``."""
    return csv_text(("split", "rule", "miou"), rule_rows(metrics))


def iou_table(pairs: PairTable, chosen: Mapping[str, NDArray[np.int64]], rule: str) -> str:
    """The file of ``iou_rows``, of ``rule`` and of the upper bound. ``chosen``: by rule (E,)."""
    outcomes = {name: pairs.outcome(chosen[name]) for name in (rule, "upper_bound")}
    return csv_text(("split", "rule", "iou", "share"), iou_rows(pairs, outcomes))


def surface_table(grid: Mapping[str, Any]) -> str:
    """The file of ``surface_rows``."""
    return csv_text(("split", "alpha", "beta", "miou"), surface_rows(grid))


def summary_text(metrics: Mapping[str, Any], rule: str) -> str:
    """The file of ``summary_of``."""
    return json.dumps(summary_of(metrics, rule), indent=1) + "\n"
