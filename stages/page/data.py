"""What the report reads, checked to belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Paths
from stages.scoring.metrics import metrics_by_encoder, outcome_of_choice
from stages.scoring.table import Scoring
from store.agreement import disagreements
from store.document import RUN, content_of, read_document, read_record
from store.errors import StoreError, reading, repair
from store.schema import members
from store.states import USABLE
from store.table import Table, read_table, require_same

_STAGES = (
    *("index", "propose", "embed_masks", "parse", "embed_text", "overlap", "heat"),
    *("pair", "variants", "score", "ablations", "sweep"),
)
RIVAL = "cropping"
"""The rule that pictures compare the run's own with, where it is enabled."""
_INDEX = (
    "image_name",
    "image_digest",
    "image_status",
    "expression_id",
    "expression_raw",
    "ref_category",
    "ref_id",
    "ref_mask",
    "ref_status",
)
_PROPOSALS = ("mask", "status")
_PARSE = ("sentence", "noun_phrase", "position_words", "relation_words", "ordinal", "status")
_PAIRS = (
    "expression_offsets",
    "expression_image",
    "expression_ref",
    "expression_group",
    "expression_area",
    "expression_state",
    "expression_status",
    "proposal",
    "intersection",
    "union",
    "proposal_score",
    "proposal_area",
)


class Inputs(Paths):
    """What the page is made of. ``records`` (what each stage took) may be absent."""

    index: Path
    proposals: Path
    parse: Path
    pairs: Path
    scores: Path
    metrics: Path
    ablations: Path
    grid: Path
    images: Path
    records: Path


@dataclass(frozen=True)
class Data:
    """A run as the page shows it.

    Attributes:
        groups: (data set, split) of each group. group: row of it for each expression (E,).
        evaluated: whether the metrics are about the expression (E,).
        usable: whether nothing is wrong with it, with a ground truth or without (E,).
        iou: rule -> IoU of its choice (E,), 0 without a choice.
        metrics, ablations, differences, tuned, grid: as their stages wrote them. others: metrics by the other encoders' names.
        records: of the other stages, in order of the pipeline.
        run: the metrics file's record of its run: encoder, values, code and date.
        main, rival: the rule of the run, and the one that pictures compare it with (None where it is the only one).
    """

    index: Table
    proposals: Table
    parse: Table
    pairs: Table
    scores: Table
    groups: list[tuple[str, str]]
    group: NDArray[np.int32]
    evaluated: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    iou: dict[str, NDArray[np.float64]]
    metrics: dict[str, Any]
    others: dict[str, dict[str, Any]]
    ablations: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    tuned: dict[str, dict[str, Any]]
    grid: dict[str, Any]
    records: list[dict[str, Any]]
    run: dict[str, Any]
    main: str
    rival: str | None

    @property
    def encoder(self) -> dict[str, str]:
        """Which encoder made the vectors (`stages.clip.config.encoder_identity`)."""
        return dict(self.pairs.attrs["encoder"])

    @property
    def run_encoder(self) -> str:
        """The name of the main encoder in the profile, "" where the metrics file names none."""
        return next((str(name) for name in self.run.get("encoders", ()) if name not in self.others), "")

    @property
    def scoring(self) -> Scoring:
        """The values of section score that the run was scored with."""
        config = self.scores.attrs["config"]
        return Scoring(**{name: config[name] for name in Scoring.model_fields if name in config})

    def point(self, group: int) -> dict[str, Any] | None:
        """The alpha and beta in use in a group, and the oiou and miou there; None where global_local is not scored."""
        dataset, split = self.groups[group]
        scores, scoring = self.metrics[dataset][split].get("global_local"), self.scoring
        if scores is None:
            return None
        alpha = scoring.alpha_of(self.groups)[group]
        return {"alpha": alpha, "beta": scoring.beta, "oiou": scores["oiou"], "miou": scores["miou"]}

    @property
    def measured(self) -> list[int]:
        """The groups that metrics are about: those with an expression that is evaluated."""
        return [group for group in range(len(self.groups)) if self.evaluated[self.group == group].any()]

    @property
    def unmeasured(self) -> list[int]:
        """The other groups: choices were made, and nothing says how good they are."""
        measured = self.measured
        return [group for group in range(len(self.groups)) if group not in measured]

    @property
    def counted(self) -> NDArray[np.bool_]:
        """The expressions that the metrics of the run's rule count (E,), as its setting ``empty`` says."""
        return self.evaluated if self.scoring.empty == "count" else self.evaluated & (self.chosen(self.main) >= 0)

    def kept(self) -> NDArray[np.bool_]:
        """The pairs whose proposal the filters of stage score admit and that have a score (P,)."""
        offsets, proposal = self.pairs["expression_offsets"], self.pairs["proposal"]
        place = np.arange(len(proposal)) - np.repeat(offsets[:-1], np.diff(offsets))
        score, area = (self.pairs[f"proposal_{name}"][proposal] for name in ("score", "area"))
        kept: NDArray[np.bool_] = self.scoring.keeps(score, area, place) & np.isfinite(self.scores["score"])
        return kept

    def chosen(self, rule: str) -> NDArray[np.int64]:
        """The choices of a rule (E,), positions among each expression's pairs, -1 for none."""
        rows: NDArray[np.int64] = self.scores[f"chosen.{rule}"]
        return rows

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(dataset for dataset, _ in self.groups))


def load_data(paths: Inputs) -> Data:
    """Read tables, metrics, grid and records.

    Raises:
        StoreError: a file is missing, damaged, or made from other inputs than its neighbours.
    """
    index = read_table(paths.index, "index", _INDEX)
    proposals = read_table(paths.proposals, "proposals", _PROPOSALS)
    parse, pairs = read_table(paths.parse, "parse", _PARSE), read_table(paths.pairs, "pairs", _PAIRS)
    scores = read_table(paths.scores, "scores")
    require_same("report", (parse, "index", index), (pairs, "index", index), (pairs, "proposals", proposals))
    require_same("report", (pairs, "parse", parse), (scores, "pairs", pairs))
    rules = [str(rule) for rule in scores.attrs["rules"]]
    groups = [(str(dataset), str(split)) for dataset, split in pairs.attrs["groups"]]
    by_encoder = metrics_by_encoder(read_document(paths.metrics, "score"))
    counts = [pairs[name] for name in ("expression_offsets", "intersection", "union", "expression_area")]
    return Data(
        index=index,
        proposals=proposals,
        parse=parse,
        pairs=pairs,
        scores=scores,
        groups=groups,
        group=pairs["expression_group"],
        evaluated=np.array([not status for status in pairs["expression_status"]], np.bool_),
        usable=np.array([state in USABLE for state in pairs["expression_state"]], np.bool_),
        iou={
            rule: outcome_of_choice(scores[f"chosen.{rule}"], *counts).iou
            for rule in members(scores.columns, "chosen")
            if ":" not in rule  # another encoder's
        },
        main=rules[0],
        rival=RIVAL if RIVAL in rules[1:] else next(iter(rules[1:]), None),
        metrics=_all_splits(paths.metrics, by_encoder.pop(""), groups),
        others=by_encoder,
        run=_run_of(paths.metrics, scores),
        **_lists(paths.ablations, pairs.digest),
        grid=_by_split(paths.grid, "sweep", groups, "splits", pairs.digest),
        records=_records(paths.records),
    )


def _run_of(path: Path, scores: Table) -> dict[str, Any]:
    """The metrics file's record of its run.

    Raises:
        StoreError: its numbers are not those that the scores table records.
    """
    document = read_document(path, "score")
    if differences := disagreements(document, scores.attrs["metrics"]):
        raise StoreError(
            f"{path}: expected the numbers that {scores.path} records, got others ({differences[0]}); {repair(path)}"
        )
    return dict(document[RUN])


def _of_these_pairs(path: Path, stage: str, pairs: str) -> dict[str, Any]:
    """A document of ``stage``, made from the pair table of digest ``pairs``."""
    document = read_document(path, stage)
    if document[RUN].get("pairs") != pairs:
        raise StoreError(f"{path}: was made from another pair table than the scores; {repair(path)}")
    return document


def _by_split(path: Path, stage: str, groups: list[tuple[str, str]], key: str, pairs: str) -> dict[str, Any]:
    """A file, made from ``pairs``, that holds something for every split under ``key``."""
    content = content_of(_of_these_pairs(path, stage, pairs))
    with reading(path, repair(path)):
        _all_splits(path, content[key], groups)
    return content


def _all_splits(path: Path, by_dataset: dict[str, Any], groups: list[tuple[str, str]]) -> dict[str, Any]:
    """``by_dataset`` of file ``path``, checked to hold something for every split."""
    with reading(path, repair(path)):
        absent = [f"{dataset} {split}" for dataset, split in groups if split not in by_dataset.get(dataset, {})]
    if absent:
        raise StoreError(
            f"{path}: expected every split of the pair table, found none for {', '.join(absent)}; {repair(path)}"
        )
    return by_dataset


def _lists(path: Path, pairs: str) -> dict[str, Any]:
    content = _of_these_pairs(path, "ablations", pairs)
    with reading(path, repair(path)):
        return {name: content[name] for name in ("ablations", "differences", "tuned")}


def _records(folder: Path) -> list[dict[str, Any]]:
    """The records of all stages but this one, which is not done yet; [] without the folder."""
    records = [read_record(path) for path in sorted(folder.glob("*.json")) if path.stem != "report"]
    order = {stage: place for place, stage in enumerate(_STAGES)}
    return sorted(records, key=lambda record: order.get(record["stage"].partition("@")[0], len(order)))
