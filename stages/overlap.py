"""Stage overlap: intersection and union, exact integers, of every proposal with every ground truth of its image."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.contract import Context, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from store.overlap_counts import overlap_counts
from store.ragged import offsets_of
from store.segmentation import areas, as_rle
from store.table import read_table, require_same, write_table


class Params(BaseParams):
    """The overlap has no parameters: filters and thresholds come later."""


class Paths(BasePaths):
    index: Path
    proposals: Path
    overlap: Path
    outputs: ClassVar[tuple[str, ...]] = ("overlap",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the overlap table: for each ref the counts of all proposals of its image, in order."""
    summary = Summary()
    index = read_table(paths.index, "index")
    proposals = read_table(paths.proposals, "proposals", ("image_offsets", "mask"))
    require_same("overlap", (proposals, "index", index))
    offsets, masks = proposals["image_offsets"], proposals["mask"]
    ref_image, truths = index["ref_image"], index["ref_mask"]
    summary.read = {"refs": len(truths), "proposals": len(masks)}

    refs_of: list[list[int]] = [[] for _ in index["image_name"]]
    for ref, image in enumerate(ref_image):
        refs_of[image].append(ref)
    counts = offsets_of(np.diff(offsets)[ref_image])
    intersection, union = (np.zeros(counts[-1], np.int64) for _ in range(2))
    area = np.zeros(len(truths), np.int64)
    with summary.timed("compute"):
        for image in context.track([i for i, refs in enumerate(refs_of) if refs], "images"):
            height, width = index["image_size"][image]
            refs = [ref for ref in refs_of[image] if truths[ref]]
            rles = [as_rle(truths[ref], height, width) for ref in refs]
            area[refs] = areas((truths[ref] for ref in refs), height, width)
            proposed = [as_rle(m, height, width) for m in masks[offsets[image] : offsets[image + 1]]]
            inter, uni = overlap_counts(proposed, rles)
            for column, ref in enumerate(refs):
                rows = slice(counts[ref], counts[ref + 1])
                intersection[rows], union[rows] = inter[:, column], uni[:, column]
    columns = {"ref_offsets": counts, "intersection": intersection, "union": union, "ref_area": area}
    made_from = {"index": index.digest, "proposals": proposals.digest}
    write_table(paths.overlap, "overlap", columns, params.config(), made_from)
    summary.wrote = {"overlaps": len(union)}
    return summary
