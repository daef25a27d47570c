"""Proposals that are expensive: kept as parts of the work folder, so that only images that no part holds are computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.contract import compute_missing
from stages.proposals.items import KIND, no_proposals
from stages.proposals.published import published_proposals
from stages.proposals.registry import Request
from store.locks import locked
from store.units import Load
from store.work import Item, Parts


def kept_items(request: Request, config: Mapping[str, Any], load: Load) -> list[Item]:
    """An item for each image of the index.

    Args:
        config: all that an image's proposals depend on apart from the image: parameters, digests of code, versions of
            libraries, and where ``load`` reads the request's input its digest, under "input".
        load: a module's function, or a partial of one: device -> what computes a unit of (image name, image digest).
    """
    index, context = request.index, request.context
    names, digests = index["image_name"], index["image_digest"]
    usable = [row for row, status in enumerate(index["image_status"]) if not status]
    with locked(context.work, context.wait):
        parts = Parts(context.work, KIND, dict(config))
        keys, inputs = [digests[row] for row in usable], [(names[row], digests[row]) for row in usable]
        reads = {request.input: str(config["input"])} if "input" in config else {}
        sizes = {digests[row]: (int(height), int(width)) for row, (height, width) in enumerate(index["image_size"])}
        results = compute_missing(
            *({KIND: parts}, {KIND: keys}, inputs, load, context, request.summary, "images"),
            reads=reads,
            published=lambda: published_proposals(request.published, parts, sizes),
        )
        known = {row: results.get(KIND, digests[row]) for row in usable}
        request.parts[KIND] = parts.folder.name
        request.keys.update({row: digests[row] for row in usable if results.kept(KIND, digests[row])})
    nothing = no_proposals("")
    return [known.get(row, nothing) for row in range(len(names))]
