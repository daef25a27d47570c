"""Stage propose: candidate masks of every image, as generously as its thresholds allow (filter later, in `score`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from stages.base import Context, Result, Results, Summary, compute_missing
from stages.base import Params as BaseParams
from stages.base import Paths as BasePaths
from stages.images import read_image
from stages.precision import Precision
from store.errors import DataError, PassingError
from store.fingerprint import code_digest, file_digest
from store.masks import areas, encode
from store.ragged import Bytes, offsets_of
from store.table import Table, read_table, write_table
from store.work import Item, Parts, locked

_MAX_ASPECT = 20
"""The short side is resized to a fixed length without a cap on the long one: a thinner image would fill the memory."""


class Params(BaseParams):
    """FreeSOLO's input size and thresholds (arXiv 2202.12181; decoding of SOLOv2, arXiv 2003.10152 sec. 3)."""

    short_side: int = Field(800, ge=32, description="short side of the network's input, pixels")
    box: Literal["reference", "tight"] = Field(
        "reference", description="half-size from the COUNT of occupied columns, or tight"
    )
    score_threshold: float = Field(0.1, ge=0, lt=1, description="least category score of a cell")
    update_threshold: float = Field(0.05, ge=0, lt=1, description="least score after matrix NMS")
    max_candidates: int = Field(500, ge=1, description="masks that enter matrix NMS")
    max_proposals: int = Field(100, ge=1, description="proposals kept for an image")
    precision: Precision = Field("float32", description="of the network; bf16 and fp16 change masks a little")


class Paths(BasePaths):
    index: Path
    images: Path
    weights: Path
    proposals: Path
    outputs: ClassVar[tuple[str, ...]] = ("proposals",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the proposals table; an image that cannot be read has no proposals and a status that says why."""
    summary = Summary()
    index = read_table(paths.index, "index", ("image_name", "image_digest", "image_status"))
    names, digests = index["image_name"], index["image_digest"]
    summary.read = {"images": len(names)}
    usable = [row for row, status in enumerate(index["image_status"]) if not status]
    config = {
        **params.config(),
        "weights": file_digest(paths.weights),
        "code": code_digest("stages.proposals.propose"),
    }
    with locked(context.work):
        parts = Parts(context.work, "proposals", config)

        def load() -> Callable[[Sequence[int], tuple[str, ...]], list[Result]]:
            propose = _proposer(params, paths, context.device)
            return lambda rows, _: [propose(names[usable[i]], digests[usable[i]]) for i in rows]

        keys = [digests[i] for i in usable]
        results = compute_missing({"proposals": parts}, {"proposals": keys}, load, context, summary, "images")
        with summary.timed("assemble"):
            columns = _assemble(results, index)
            write_table(paths.proposals, "proposals", columns, config, {"index": index.digest})
    summary.wrote = {"proposals": len(columns["mask"])}
    summary.skipped += [f"{names[row]}: {status}" for row, status in enumerate(columns["status"]) if status]
    return summary


def _proposer(params: Params, paths: Paths, device: str) -> Callable[[str, str], Result]:
    from stages.proposals.freesolo import FreeSolo
    from stages.state_dict import read_state_dict

    net = FreeSolo.from_state_dict(read_state_dict(paths.weights), **params.config(), device=device)

    def propose(name: str, digest: str) -> Result:
        try:
            image = read_image(paths.images, name, digest)
        except DataError as error:
            return _without(str(error), isinstance(error, PassingError))
        if max(image.size) > _MAX_ASPECT * min(image.size):
            return _without(
                f"{name}: {image.width} x {image.height} is longer than {_MAX_ASPECT} times its short side; cut it"
            )
        found = net.propose(image)
        counts = encode(found.masks)
        area = areas(counts, image.height, image.width)
        status = "" if counts else "no proposal above the thresholds"
        return Result({"proposals": _item(counts, found.boxes, found.scores, area, status)})

    return propose


def _without(status: str, passing: bool = False) -> Result:
    """The result of an image that has no proposals."""
    return Result({"proposals": _item([], np.zeros((0, 4)), [], [], status)}, passing=passing)


def _item(counts: list[bytes], boxes: Any, scores: Any, area: Any, status: str) -> Item:
    masks = Bytes.of(counts)
    return {
        "mask": masks.flat,
        "length": np.diff(masks.offsets),
        "box": np.asarray(boxes, np.float32),
        "score": np.asarray(scores, np.float32),
        "area": np.asarray(area, np.int64),
        "status": np.frombuffer(status.encode(), np.uint8),
    }


def _assemble(results: Results, index: Table) -> dict[str, Any]:
    empty = _item([], np.zeros((0, 4)), [], [], "")
    usable = [not status for status in index["image_status"]]
    items = [results.get("proposals", d) if ok else empty for d, ok in zip(index["image_digest"], usable, strict=True)]
    statuses = [s or i["status"].tobytes().decode() for s, i in zip(index["image_status"], items, strict=True)]
    items = items or [empty]
    joined = {name: np.concatenate([item[name] for item in items]) for name in empty}
    return {
        "image_offsets": offsets_of(len(item["score"]) for item in items[: len(statuses)]),
        "mask": Bytes(joined["mask"], offsets_of(joined["length"])),
        "box": joined["box"],
        "score": joined["score"],
        "area": joined["area"],
        "status": statuses,
    }
