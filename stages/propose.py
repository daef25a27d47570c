"""Stage propose: candidate masks of every image, as generously as its thresholds allow (filter later, in `score`).

Where they come from is a parameter: a name of the registry of sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, Field

from stages.contract import Context, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.device.precision import Precision
from stages.proposals import from_freesolo, from_instances, from_masks  # noqa: F401  each adds its source
from stages.proposals.boxes import BoxRule
from stages.proposals.items import boxes_of, no_proposals
from stages.proposals.registry import SOURCES, Request
from stages.proposals.settings import PRECISION, RELEASED, SHORT_SIDE
from store.errors import ParameterError, nearest
from store.ragged import Bytes, offsets_of
from store.states import State
from store.table import Table, read_table, write_table
from store.usable import Lost, require_usable
from store.work import Item

_INDEX = ("image_name", "image_id", "image_size", "image_digest", "image_status", "instance_offsets", "instance_mask")


class Params(BaseParams):
    """The source and the parameters of all sources: each uses those that its record names."""

    source: Annotated[str, AfterValidator(SOURCES.checked)] = Field("freesolo", description="who proposes")
    short_side: int = Field(SHORT_SIDE, ge=32, description="short side of the network's input, pixels")
    box: BoxRule = Field(RELEASED.box, description="half-size from the COUNT of occupied columns, or tight; any source")
    score_threshold: float = Field(
        RELEASED.score_threshold, ge=0, lt=1, description="least category score of a cell of FreeSOLO's grids"
    )
    update_threshold: float = Field(RELEASED.update_threshold, ge=0, lt=1, description="least score after matrix NMS")
    max_candidates: int = Field(RELEASED.max_candidates, ge=1, description="masks that enter matrix NMS")
    max_proposals: int = Field(RELEASED.max_proposals, ge=1, description="proposals kept for an image")
    precision: Precision = Field(PRECISION, description="of the network; bf16 and fp16 change masks a little")

    def used(self) -> dict[str, Any]:
        """The values that the source's record names: what its masks depend on, apart from its input."""
        known = type(self).model_fields
        if unknown := [name for name in SOURCES[self.source].parameters if name not in known]:
            raise ParameterError(
                f"proposal source {self.source!r}: it uses a parameter {unknown[0]!r} that section propose does not have; "
                f"{nearest(unknown[0], known)}"
            )
        return {name: getattr(self, name) for name in SOURCES[self.source].parameters}


class Paths(BasePaths):
    index: Path
    images: Path
    input: Path
    proposals: Path
    outputs: ClassVar[tuple[str, ...]] = ("proposals",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the proposals table; an image that has no proposals has a state, and a status that says why.

    Raises:
        DataError: no image has a proposal, or no row of a file is usable.
    """
    summary = Summary()
    index = read_table(paths.index, "index", _INDEX)
    summary.read = {"images": len(index["image_name"])}
    request = Request(params.used(), paths.input, paths.images, index, context, summary, paths.proposals)
    items, config = SOURCES[params.source].propose(request)
    if len(items) != len(index["image_name"]):
        raise ParameterError(
            f"proposal source {params.source!r}: expected an item for each of the {len(index['image_name'])} images, got "
            f"{len(items)}; correct {SOURCES[params.source].module}"
        )
    with summary.timed("assemble"):
        columns = _assemble(items, index["image_status"], params.box)
        config = {"source": params.source, "box": params.box, **config}
        _require_usable(index, columns, params.source, summary)
        # no columns: equal proposals have the same digest, whoever made them
        attributes = {
            "parts": request.parts,
            "keys": [request.keys.get(row, "") for row in range(len(items))],
            "losses": summary.losses,
        }
        write_table(paths.proposals, "proposals", columns, config, {"index": index.digest}, **attributes)
    summary.wrote = {"proposals": len(columns["mask"])}
    reasons = zip(index["image_name"], columns["status"], strict=True)
    summary.skipped += [f"{name}: {status}" for name, status in reasons if status]
    return summary


def _require_usable(index: Table, columns: Mapping[str, Any], source: str, summary: Summary) -> None:
    """Count which images of the index that could be used have no proposals; an error where that is all of them."""
    usable = [row for row, status in enumerate(index["image_status"]) if not status]
    lost = [
        Lost(columns["state"][row], columns["status"][row], index["image_name"][row])
        for row in usable
        if columns["state"][row]
    ]
    remedy = f"check propose.input and the values of propose (source {source}), or the image files"
    require_usable(summary, "images to propose for", len(usable), lost, remedy)


def _assemble(items: Sequence[Item], image_status: Sequence[str], box: BoxRule) -> dict[str, Any]:
    """The columns of the proposals table; an image that cannot be used has no proposals and its own status."""
    nothing = no_proposals("", State.UNREADABLE_IMAGE)
    kept = [nothing if status else item for status, item in zip(image_status, items, strict=True)]
    statuses = [i["status"].tobytes().decode("utf-8", "surrogatepass") for i in kept]
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
        "status": [status or reason for status, reason in zip(image_status, statuses, strict=True)],
        "state": [item["state"].tobytes().decode() for item in kept],
    }
