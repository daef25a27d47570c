"""What the report reads, checked to belong together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Paths
from stages.scoring.metrics import outcome_of_choice
from store.errors import StoreError, again, reading
from store.table import Table, read_table, require_same

CHOICES = {
    "global_local": "chosen",
    "global": "chosen_global",
    "cropping": "chosen_cropping",
    "upper_bound": "chosen_upper_bound",
}
"""Rule -> column of the scores table."""
_STAGES = (
    *("index", "propose", "embed_masks", "parse", "embed_text", "overlap"),
    *("pair", "variants", "score", "ablations", "sweep"),
)
_INDEX = (
    "image_name",
    "image_digest",
    "image_status",
    "expression_id",
    "expression_raw",
    "ref_id",
    "ref_mask",
    "ref_status",
)
_PROPOSALS, _PARSE = ("mask", "status"), ("noun_phrase", "status")
_PAIRS = (
    "expression_offsets",
    "expression_image",
    "expression_ref",
    "expression_group",
    "expression_area",
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
    """Attributes:
    groups: (data set, split) of each group. group: row of it for each expression (E,).
    evaluated: whether the expression has a ground truth (E,).
    iou: rule -> IoU of its choice (E,), 0 without a choice.
    metrics, ablations, differences, grid: as their stages wrote them.
    records: of the other stages, in order of the pipeline.
    """

    index: Table
    proposals: Table
    parse: Table
    pairs: Table
    scores: Table
    groups: list[tuple[str, str]]
    group: NDArray[np.int32]
    evaluated: NDArray[np.bool_]
    iou: dict[str, NDArray[np.float64]]
    metrics: dict[str, Any]
    ablations: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    grid: dict[str, Any]
    records: list[dict[str, Any]]

    def point(self, group: int) -> dict[str, Any]:
        """The alpha and beta in use in a group, and the oiou and miou there."""
        (dataset, split), config = self.groups[group], self.scores.attrs["config"]
        found = self.metrics[dataset][split]["global_local"]
        alpha = config["alpha_by_dataset"].get(dataset, config["alpha"])
        return {"alpha": alpha, "beta": config["beta"], "oiou": found["oiou"], "miou": found["miou"]}

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
    require_same("report", (scores, "pairs", pairs))
    groups = [(str(dataset), str(split)) for dataset, split in pairs.attrs["groups"]]
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
        iou={rule: outcome_of_choice(scores[column], *counts).iou for rule, column in CHOICES.items()},
        metrics=_by_split(paths.metrics, "score", groups),
        **_lists(paths.ablations),
        grid=_by_split(paths.grid, "sweep", groups, "splits"),
        records=_records(paths.records),
    )


def _by_split(path: Path, stage: str, groups: list[tuple[str, str]], key: str | None = None) -> dict[str, Any]:
    """A file that holds something for every split, under ``key`` if that is given."""
    with reading(path, again(stage)):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        by_dataset = content[key] if key else content
        absent = [f"{dataset} {split}" for dataset, split in groups if split not in by_dataset.get(dataset, {})]
    if absent:
        raise StoreError(
            f"{path}: expected every split of the pair table, found none for {', '.join(absent)}; {again(stage)}"
        )
    return content


def _lists(path: Path) -> dict[str, list[dict[str, Any]]]:
    with reading(path, again("ablations")):
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: content[name] for name in ("ablations", "differences")}


def _records(folder: Path) -> list[dict[str, Any]]:
    """The records of all stages but this one, which is not done yet; [] without the folder."""
    records = []
    for path in sorted(folder.glob("*.json")):
        with reading(path, "remove it, it is only shown in the report"):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["stage"] != "report":
                records.append(record)
    order = {stage: place for place, stage in enumerate(_STAGES)}
    return sorted(records, key=lambda record: order.get(record["stage"], len(order)))
