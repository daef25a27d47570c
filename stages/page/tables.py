"""The report's tables, as rows that the page prints as they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.page.data import Data
from stages.scoring.rules.registry import label_of
from store.usable import pattern

Json = dict[str, Any]
_COUNTS = {
    "expressions": "expressions",
    "refs": "refs",
    "images": "images",
    "images_without_proposals": "images without proposals",
    "truncated_texts": "truncated texts",
    "lost_pairs": "pairs without a usable feature",
    "not_evaluated": "not evaluated",
    "no_choice": "without a choice",
}
_EXAMPLES = 3
_FATES = {
    "embed_masks": "not computed",
    "embed_text": "cut to the context length",
    "heat": "not computed",
    "pair": "not evaluated",
    "score": "not computed",
}
"""Stage -> what became of the rows that it reports; elsewhere they were skipped."""
_SOURCES = ("index", "propose", "parse", "pair")
"""Stages whose tables give the reason for a row; those of other stages are taken from their records."""


def percent(value: float | None) -> str:
    """A fraction in percent with two decimals; an en dash for None."""
    return "–" if value is None else f"{100 * value:.2f}"


def probability(p: float) -> str:
    """A p-value with the digits that 1,000 resamples can tell.

    >>> probability(0.034), probability(0.002), probability(0.0002)
    ('p 0.034', 'p 0.002', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


@dataclass(frozen=True)
class RuleRow:
    """A line of the metrics table. ``best`` names the metrics in which no other rule but the upper bound is better."""

    rule: str
    label: str
    values: Json
    best: frozenset[str]


@dataclass(frozen=True)
class SplitTable:
    dataset: str
    split: str
    counts: list[tuple[str, int]]
    rows: list[RuleRow]


def metrics(metrics: Json) -> list[SplitTable]:
    """One table per split, rules in the order of the metrics."""
    result = []
    for dataset, splits in metrics.items():
        for split, content in splits.items():
            rules = _rules(content)
            tops = {
                column: max((content[r][column] or 0 for r in rules if r != "upper_bound"), default=0)
                for column in ("oiou", "miou", "p50", "p70", "p90")
            }
            rows = [
                RuleRow(
                    rule,
                    label,
                    content[rule],
                    frozenset(
                        c for c, top in tops.items() if rule != "upper_bound" and top and content[rule][c] == top
                    ),
                )
                for rule, label in rules.items()
            ]
            counts = [(_COUNTS.get(name, name), n) for name, n in content.get("counts", {}).items()]
            result.append(SplitTable(dataset, split, counts, rows))
    return result


def _rules(content: Json) -> dict[str, str]:
    return {rule: label_of(rule) for rule in content if rule != "counts"}


def overview(metrics: Json, main: str) -> list[Json]:
    """For each split the mIoU of every rule, and the share of the upper bound and multiple of random of rule ``main``."""
    lines = []
    for dataset, splits in metrics.items():
        for split, content in splits.items():
            miou = {rule: content[rule]["miou"] or 0.0 for rule in _rules(content)}
            ours, bound, random = (miou.get(rule, 0.0) for rule in (main, "upper_bound", "random"))
            lines.append(
                {
                    "dataset": dataset,
                    "split": split,
                    "miou": miou,
                    "ci": content.get(main, {}).get("miou_ci"),
                    "of_bound": ours / bound if bound else None,
                    "of_random": ours / random if random else None,
                }
            )
    return lines


def encoders(data: Data) -> list[Json]:
    """For each split the mIoU of every rule by every encoder, the main one first; [] where there is only one.

    ``cells`` has one entry for each of ``names``: None where the encoder lacks a view of the rule.
    """
    if not data.others:
        return []
    by_name = {data.run_encoder: data.metrics, **data.others}
    lines = []
    for dataset, split in measured(data).values():
        contents = [metrics[dataset][split] for metrics in by_name.values()]
        rules = [rule for rule in _rules(contents[0]) if rule not in ("upper_bound", "random")]
        rows = [
            {
                "rule": rule,
                "label": label_of(rule),
                "cells": [content.get(rule, {}).get("miou") for content in contents],
            }
            for rule in rules
        ]
        lines.append({"dataset": dataset, "split": split, "names": list(by_name), "rows": rows})
    return lines


def points(data: Data) -> list[Json]:
    """The point in use and the best points of every measured split; ``group``: its row of the groups."""
    splits = data.grid["splits"]
    return [
        {"group": group, "dataset": dataset, "split": split}
        | {"used": data.point(group), "best": splits[dataset][split]["best"]}
        for group, (dataset, split) in measured(data).items()
    ]


def measured(data: Data) -> dict[int, tuple[str, str]]:
    """Row of the groups -> (data set, split) of every split that metrics are about."""
    return {group: data.groups[group] for group in data.measured}


def metrics_of(data: Data) -> Json:
    """The metrics by data set and split, without the splits that no metric is about."""
    kept: Json = {}
    for dataset, split in measured(data).values():
        kept.setdefault(dataset, {})[split] = data.metrics[dataset][split]
    return kept


def by_dataset(lines: Sequence[Json], groups: Sequence[tuple[str, str]]) -> list[Json]:
    """A table of a column for each split, cut into one for each data set, so that it stays narrow.

    Args:
        lines: rows with ``cells``, one (or None) for each of ``groups``.

    Returns:
        ``dataset``, ``splits`` and ``lines`` of each table; a line without any cell in it is left out.
    """
    tables = []
    for dataset in dict.fromkeys(name for name, _ in groups):
        places = [place for place, (name, _) in enumerate(groups) if name == dataset]
        own = [line | {"cells": [line["cells"][place] for place in places]} for line in lines]
        kept = [line for line in own if any(cell is not None for cell in line["cells"])]
        if kept:
            tables.append({"dataset": dataset, "splits": [groups[place][1] for place in places], "lines": kept})
    return tables


def ablations(rows: Sequence[Json], groups: Sequence[tuple[str, str]]) -> list[Json]:
    """Ablation rows by (name, setting), with one cell (or None) for each split."""
    lines: dict[tuple[str, str], dict[tuple[str, str], Json]] = {}
    for row in rows:
        lines.setdefault((row["name"], row["setting"]), {})[row["dataset"], row["split"]] = row
    return [
        {"name": name, "setting": setting, "cells": [cells.get(group) for group in groups]}
        for (name, setting), cells in lines.items()
    ]


def searches(data: Data) -> list[Json]:
    """The searches for better values: what `stages.scoring.tuning.tuned` found, with its number and name."""
    return [
        {
            "number": number,
            "name": name,
            **search,
            "label": label_of(search["rule"]),
            "splits": [line for line in search["splits"] if line["n"]],
            "left_out": [line for line in search["splits"] if line["searched"]],
        }
        for number, (name, search) in enumerate(data.tuned.items())
    ]


def identity(data: Data) -> list[tuple[str, str]]:
    """(name, value) rows that identify this run: its code and date where known, and the full encoder identity."""
    code = [(name, str(data.run[name])) for name in ("version", "commit", "date") if data.run.get(name)]
    return code + [(f"encoder {name}", value) for name, value in data.encoder.items() if value]


def setting(data: Data) -> list[tuple[str, str]]:
    """(name, value) of the point at which the run was scored; alpha also for each data set that has its own."""
    scoring = data.scoring
    own = ", ".join(f"{name} {alpha:g}" for name, alpha in scoring.alpha_by_dataset.items())
    return [
        ("α", f"{scoring.alpha:g}{f' ({own})' if own else ''}"),
        ("β", f"{scoring.beta:g}"),
        ("k", str(scoring.k)),
        ("expressions", f"{len(data.evaluated):,}"),
    ]


def parameters(data: Data) -> list[tuple[str, list[tuple[str, str]]]]:
    """Stage -> (parameter, value) of every stage that led to the scores."""
    configs = {**data.pairs.attrs["configs"], "score": data.scores.attrs["config"]}
    return [(stage, list(_flat(config))) for stage, config in configs.items() if config]


def _flat(config: Json, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        else:
            text = "none" if value in (None, "", {}) else str(value)
            yield prefix + key, f"{text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def stages(records: Sequence[Json]) -> list[Json]:
    """Seconds, rows and bytes of every recorded stage; ``share`` is its part of the longest one's time."""
    longest = max((record.get("total_seconds", 0.0) for record in records), default=0.0)
    return [
        {
            "stage": record["stage"],
            "seconds": record.get("total_seconds", 0.0),
            "share": record.get("total_seconds", 0.0) / longest if longest else 0.0,
            "parts": ", ".join(f"{name} {seconds:.1f}" for name, seconds in record.get("seconds", {}).items()),
            **{kind: _counts(record.get(kind, {})) for kind in ("read", "computed", "reused", "wrote")},
            "noted": ", ".join(f"{count:,} {word}" for word, count in noted(record).items()),
            "size": size(sum(record.get("bytes", {}).values())),
        }
        for record in records
    ]


def noted(record: Json) -> dict[str, int]:
    """What became of the rows that a stage gave a reason for, the most frequent first -> how many.

    A degenerate mask has its vector, and a cut text too: they are used like all others, so they are not skipped.
    """
    counts = Counter(fate_of(record, reason) for reason in record.get("skipped", []))
    return dict(counts.most_common())


def fate_of(record: Json, reason: str) -> str:
    """What became of the row that the stage of ``record`` gave ``reason`` for.

    >>> fate_of({"stage": "embed_masks@vit"}, "proposal 3: mask empty on the patch grid")
    'degenerate'
    >>> fate_of({"stage": "embed_masks@vit"}, "an encoder of kind vit does not offer all views")
    'not computed'
    """
    stage = record["stage"].partition("@")[0]
    if stage == "embed_masks" and reason.startswith("proposal "):
        lost = {pattern(found["reason"]) for loss in record.get("losses", []) for found in loss["reasons"]}
        return "lost" if pattern(reason.partition(": ")[2]) in lost else "degenerate"
    return _FATES.get(stage, "skipped")


def warnings(records: Sequence[Json]) -> list[tuple[str, list[str]]]:
    """(stage, what it warned of) for every stage that did; records made before there were warnings have none."""
    return [(record["stage"], record["warnings"]) for record in records if record.get("warnings")]


def _counts(counts: Json) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def size(count: float) -> str:
    """Bytes for people: 1,234,567 -> "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError  # the loop returns at GB


def reasons(data: Data) -> list[Json]:
    """Rows with a reason, grouped by what they are, why, and what became of them, the most frequent first."""
    index, parse = data.index, data.parse
    entries: list[tuple[str, str, str, str]] = []
    images = zip(index["image_name"], index["image_status"], strict=True)
    entries += [("image", "skipped", name, status) for name, status in images]
    alone = zip(index["image_name"], data.proposals["status"], index["image_status"], strict=True)
    entries += [("image", "without proposals", name, status) for name, status, problem in alone if not problem]
    refs = zip(index["ref_id"], index["ref_status"], strict=True)
    entries += [("ref", "without ground truth", f"ref {ref}", status) for ref, status in refs]
    unusable = zip(data.usable, data.pairs["expression_status"], strict=True)
    statuses = (
        ("text", "odd", parse["status"]),
        ("expression", "not evaluated", ["" if usable else status for usable, status in unusable]),
    )
    for what, fate, column in statuses:
        entries += [(what, fate, f"expression {e}", s) for e, s in zip(index["expression_id"], column, strict=True)]
    for record in data.records:
        stage = record["stage"]
        if stage not in (*_SOURCES, f"pair@{data.run_encoder}"):
            found = record.get("skipped", [])
            entries += [(f"reported by {stage}", fate_of(record, reason), "", reason) for reason in found]
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for what, fate, row, reason in entries:
        if reason:
            groups.setdefault((what, fate, pattern(reason)), []).append((row, reason))
    return [
        {
            "what": what,
            "fate": fate,
            "reason": rows[0][1] if len({reason for _, reason in rows}) == 1 else kind,
            "count": len(rows),
            "examples": [row or reason for row, reason in rows[:_EXAMPLES]],
        }
        for (what, fate, kind), rows in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
