"""Stage propose: candidate masks of every image, as generously as its thresholds allow (filter later, in `score`).

Where they come from is a parameter; each source is one function that gives an item for each image of the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from stages.contract import Context, Summary, compute_missing
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.device.precision import Precision
from stages.proposals.boxes import BoxRule
from stages.proposals.from_coco import read_items
from stages.proposals.from_freesolo import KIND, proposer
from stages.proposals.items import boxes_of, item_of, no_proposals
from store.errors import DataError
from store.fingerprint import code_digest, file_digest
from store.ragged import Bytes, offsets_of
from store.table import Table, read_table, write_table
from store.work import Item, Parts, locked

_INDEX = ("image_name", "image_id", "image_size", "image_digest", "image_status", "instance_offsets", "instance_mask")
Found = tuple[list[Item], dict[str, Any]]
"""An item for each image of the index (whatever it is for one that cannot be used), and what the items depend on."""


class Params(BaseParams):
    """The source, and FreeSOLO's input size and thresholds (arXiv 2202.12181; decoding of SOLOv2, arXiv 2003.10152 sec. 3),
    which other sources do not use."""

    source: Literal["freesolo", "coco", "instances"] = Field(
        "freesolo",
        description="who proposes: FreeSOLO; any generator through COCO result JSON; the annotated objects themselves",
    )
    short_side: int = Field(800, ge=32, description="freesolo: short side of the network's input, pixels")
    box: BoxRule = Field("reference", description="half-size from the COUNT of occupied columns, or tight; any source")
    score_threshold: float = Field(0.1, ge=0, lt=1, description="freesolo: least category score of a cell")
    update_threshold: float = Field(0.05, ge=0, lt=1, description="freesolo: least score after matrix NMS")
    max_candidates: int = Field(500, ge=1, description="freesolo: masks that enter matrix NMS")
    max_proposals: int = Field(100, ge=1, description="freesolo, coco: proposals kept for an image")

    precision: Precision = Field("float32", description="freesolo: of the network; bf16 and fp16 change masks a little")

    def freesolo(self) -> dict[str, Any]:
        """What FreeSOLO's masks depend on: not on the rule of the boxes."""
        return {
            "short_side": self.short_side,
            "score_threshold": self.score_threshold,
            "update_threshold": self.update_threshold,
            "max_candidates": self.max_candidates,
            "max_proposals": self.max_proposals,
            "precision": self.precision,
        }


class Paths(BasePaths):
    index: Path
    images: Path
    input: Path
    proposals: Path
    outputs: ClassVar[tuple[str, ...]] = ("proposals",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the proposals table; an image that has no proposals has a status that says why."""
    summary = Summary()
    index = read_table(paths.index, "index", _INDEX)
    summary.read = {"images": len(index["image_name"])}
    source = {"freesolo": _freesolo, "coco": _coco, "instances": _instances}[params.source]
    items, config = source(params, paths, context, index, summary)
    with summary.timed("assemble"):
        columns = _assemble(items, index["image_status"], params.box)
        config = {"source": params.source, "box": params.box, **config}
        write_table(paths.proposals, "proposals", columns, config, {"index": index.digest})
    summary.wrote = {"proposals": len(columns["mask"])}
    reasons = zip(index["image_name"], columns["status"], strict=True)
    summary.skipped += [f"{name}: {status}" for name, status in reasons if status]
    return summary


def _freesolo(params: Params, paths: Paths, context: Context, index: Table, summary: Summary) -> Found:
    """Masks of the network, kept as parts of the work folder: only images that no part holds are computed."""
    names, digests = index["image_name"], index["image_digest"]
    usable = [row for row, status in enumerate(index["image_status"]) if not status]
    config = {
        **params.freesolo(),
        "input": _digest(paths.input),
        "code": code_digest("stages.proposals.from_freesolo"),
    }
    with locked(context.work):
        parts = Parts(context.work, KIND, config)
        load = partial(proposer, paths.input, paths.images, params.freesolo())
        keys, inputs = [digests[row] for row in usable], [(names[row], digests[row]) for row in usable]
        results = compute_missing({KIND: parts}, {KIND: keys}, inputs, load, context, summary, "images")
        known = {row: results.get(KIND, digests[row]) for row in usable}
    nothing = no_proposals("")
    return [known.get(row, nothing) for row in range(len(names))], config


def _coco(params: Params, paths: Paths, context: Context, index: Table, summary: Summary) -> Found:
    """The masks that a COCO result JSON has for the images of the index."""
    config = {"max_proposals": params.max_proposals, "input": _digest(paths.input)}
    return read_items(paths.input, index, params.max_proposals, summary, context.track), config


def _instances(params: Params, paths: Paths, context: Context, index: Table, summary: Summary) -> Found:
    """All annotated objects of each image, score 1.0, in the annotations' order (the paper's ablation of mask quality)."""
    offsets, masks = index["instance_offsets"], index["instance_mask"]
    items = []
    with summary.timed("boxes"):
        for row in context.track(range(len(index["image_name"])), "images"):
            counts = masks[offsets[row] : offsets[row + 1]]
            height, width = index["image_size"][row].tolist()
            status = "" if counts else "no annotated object"
            items.append(item_of(counts, np.ones(len(counts)), height, width, status))
    return items, {}


def _digest(file: Path) -> str:
    try:
        return file_digest(file)
    except OSError as error:
        raise DataError(
            f"{file}: expected the file that propose.input names, it cannot be read ({error.strerror}); put it there, or "
            f"correct propose.input or propose.source"
        ) from error


def _assemble(items: Sequence[Item], image_status: Sequence[str], box: BoxRule) -> Mapping[str, Any]:
    """The columns of the proposals table; an image that cannot be used has no proposals and its own status."""
    nothing = no_proposals("")
    kept = [nothing if status else item for status, item in zip(image_status, items, strict=True)]
    statuses = [
        s or i["status"].tobytes().decode("utf-8", "surrogatepass") for s, i in zip(image_status, kept, strict=True)
    ]
    filled = kept or [nothing]
    mask, length, score, area = (
        np.concatenate([i[name] for i in filled]) for name in ("mask", "length", "score", "area")
    )
    return {
        "image_offsets": offsets_of(len(item["score"]) for item in kept),
        "mask": Bytes(mask, offsets_of(length)),
        "box": np.concatenate([boxes_of(item, box) for item in filled]),
        "score": score,
        "area": area,
        "status": statuses,
    }
