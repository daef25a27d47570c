"""Our numbers next to the reported ones, and the effect of each deliberate difference from the released code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from stages.datasets.choice import published_split
from stages.datasets.registry import Split
from stages.page.data import Data
from stages.page.reported import ENCODERS, METRICS, PHRASECUT, ROWS, SPLITS, Number
from stages.proposals.settings import RELEASED, SHORT_SIDE

Json = dict[str, Any]
AS_CONFIGURED = "as configured"
PAPER: dict[str, Json] = {
    "index": {"polygon_overlap": "reference"},
    "propose": {
        "source": "freesolo",
        "short_side": SHORT_SIDE,
        **{name: value for name, value in asdict(RELEASED).items() if name != "strides"},
    },
    "embed_masks": {
        "preprocess": "reference",
        "antialias": "auto",
        "short_side": 800,
        "fill": "reference",
        "precision": "float32",
    },
    "parse": {"spacy_model": "en_core_web_lg"},
    "embed_text": {"template": "{}", "precision": "float32"},
    "score": {"beta": 0.5, "k": 3, "min_score": 0, "min_area": 0, "top_n": 0},
}
"""Stage -> the settings behind the reported numbers, as far as a run's tables record its own."""
PAPER_ALPHA = {"refcoco": 0.95, "refcoco+": 0.95, "refcocog": 0.85}
SWITCHES = {
    "antialias": "whether an image is smoothed when it is made smaller for CLIP; the release does not smooth",
    "preprocess": "the mean and deviation by which pixels are normalised: ImageNet's, as in the release, or CLIP's own",
    "fill": "what stands outside the mask in the crop: the mean colour, or, as in the release, the numbers of the mean "
    "colour written into an image that is already normalised",
    "box": "the crop: the tight box of the mask, or, as in the release, one whose width and height are the numbers of "
    "occupied columns and rows, too small for a mask in several pieces",
    "polygon_overlap": "ground-truth pixels under two polygons of one object: inside, or dropped, as in the release",
    "empty": "expressions without a proposal to choose: counted with IoU 0, or left out, as in the release",
    "release": "all of these at once as in the release",
}
"""Name of a switch -> what it is."""


@dataclass(frozen=True)
class Cell:
    """One metric of one line: ours as a fraction, the reported number of percent, either may be None."""

    ours: float | None
    reported: Number | None

    @property
    def difference(self) -> float | None:
        """Ours less the reported number, in points of percent."""
        return None if self.ours is None or self.reported is None else 100 * self.ours - self.reported.value


@dataclass(frozen=True)
class Line:
    """``rule``: ours that it is about, "" for a system that is only reported. ``cells`` by metric."""

    label: str
    encoder: str
    rule: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class SplitLines:
    """``n``: expressions behind ours."""

    dataset: str
    split: str
    n: int
    lines: list[Line]


@dataclass(frozen=True)
class Comparison:
    """All splits against the numbers that are reported of them.

    Attributes:
        encoder: the paper's encoder whose rows are compared with ours, "" where this run's is none of the paper's.
        splits: those with reported numbers. without: the others, as text.
        departures: (setting, here, paper) where a setting of this run is not the paper's.
    """

    encoder: str
    splits: list[SplitLines]
    without: list[str]
    departures: list[tuple[str, str, str]]


def compare(data: Data) -> Comparison:
    """All splits of a run against what is reported of them, by the protocol of the paper (``skip``)."""
    standard = data.encoder.get("standard", "")
    encoder = standard if standard in ENCODERS else ""
    paper = paper_splits(data)
    compared = [
        _split_lines(group, split, encoder, data.metrics[group[0]][group[1]])
        for group, split in zip(data.groups, paper, strict=True)
        if _is_reported(split)
    ]
    without = [" ".join(group) for group, split in zip(data.groups, paper, strict=True) if not _is_reported(split)]
    return Comparison(encoder, compared, without, departures(data, encoder) if compared else [])


def paper_splits(data: Data) -> list[Split | None]:
    """The published split that each group is, whether or not numbers of it are reported; None for one of our own."""
    origins = data.index.attrs.get("origins", {})
    return [published_split(origins.get(dataset, {}), split) for dataset, split in data.groups]


def _is_reported(split: Split | None) -> TypeGuard[Split]:
    return split in SPLITS or split == PHRASECUT


def _split_lines(group: tuple[str, str], split: Split, encoder: str, content: Json) -> SplitLines:
    """Lines of our rules first, for the encoder in use, then of what is only reported.

    ``encoder`` "": that of this run is none of the paper's; then only what no encoder takes part in is compared.
    """
    lines = []
    for row in ROWS:
        numbers = row.at(split)
        if not numbers or (row.rule and encoder and row.encoder not in ("", encoder)):
            continue
        rule = row.rule if row.encoder in ("", encoder) else None
        ours = content.get(rule, {}).get("skip", {}) if rule else {}
        cells = {metric: Cell(ours.get(metric), numbers.get(metric)) for metric in METRICS}
        lines.append(Line(row.label, row.encoder, rule or "", cells))
    lines.sort(key=lambda line: not line.rule)
    n = content.get("global_local", {}).get("skip", {}).get("n", 0)
    return SplitLines(*group, n, lines)


def departures(data: Data, encoder: str) -> list[tuple[str, str, str]]:
    """(setting, here, paper) for every setting that the run's tables hold and that is not the paper's."""
    configs = {**data.pairs.attrs["configs"], "score": data.scores.attrs["config"]}
    rows = []
    for stage, settings in PAPER.items():
        config = configs[stage]
        for name, value in settings.items():
            # k counts the masked blocks of a ViT.
            if name in config and config[name] != value and not (name == "k" and encoder == "RN50"):
                rows.append((f"{stage}.{name}", _text(config[name]), _text(value)))
    weights = data.encoder.get("weights", "")
    if encoder and weights != ENCODERS[encoder]:
        rows.append(
            ("weights of the encoder", f"sha256 {weights[:12]}…", f"OpenAI's, sha256 {ENCODERS[encoder][:12]}…")
        )
    return rows + list(_alphas(data))


def _alphas(data: Data) -> Iterable[tuple[str, str, str]]:
    alphas = zip(data.groups, paper_splits(data), data.scoring.alpha_of(data.groups), strict=True)
    known = {dataset: (split[0], alpha) for (dataset, _), split, alpha in alphas if split is not None}
    for dataset, (folder, here) in known.items():
        paper = PAPER_ALPHA.get(folder)
        if paper is not None and here != paper:
            yield f"score.alpha of {dataset}", _text(here), _text(paper)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def differences(rows: Sequence[Json], groups: Sequence[tuple[str, str]]) -> list[Json]:
    """Rows of the ablations file's ``differences`` by (name, setting), with one cell (or None) for each split.

    A cell has oiou and miou as fractions, and the change of each against "as configured" in points of percent (None
    where either is None or the split has no such row).
    """
    configured = {(row["dataset"], row["split"]): row for row in rows if row["name"] == AS_CONFIGURED}
    lines: dict[tuple[str, str], Json] = {}
    for row in sorted(rows, key=lambda row: row["name"] != AS_CONFIGURED):
        line = {"name": row["name"], "setting": row["setting"], "release": bool(row.get("release")), "cells": {}}
        cells = lines.setdefault((row["name"], row["setting"]), line)["cells"]
        group = row["dataset"], row["split"]
        base = configured.get(group, {})
        cells[group] = {metric: row[metric] for metric in METRICS} | {
            f"{metric}_change": None if row["name"] == AS_CONFIGURED else _change(row[metric], base.get(metric))
            for metric in METRICS
        }
    return [line | {"cells": [line["cells"].get(group) for group in groups]} for line in lines.values()]


def _change(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else 100 * (value - base)


def switches(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name, what it is) of every switch of the table that we have a sentence for, in order."""
    names = dict.fromkeys(str(line["name"]) for line in lines)
    return [(name, SWITCHES[key]) for name in names if (key := name.lower().replace(" ", "_")) in SWITCHES]


def signed(points: float | None) -> str:
    """A difference in points of percent with its sign; an en dash for None."""
    return "–" if points is None else f"{round(points, 2) + 0.0:+.2f}".replace("-", "−")
