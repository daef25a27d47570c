"""One expression as a picture: its image, proposals, ground truth and chosen mask, from the store alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.project import LoadedProject
from stages.page.overlay import encoded, overlay
from store.errors import ParameterError
from store.images import read_image
from store.publish import write_file
from store.segmentation import decode
from store.table import Table, read_table, require_same


@dataclass(frozen=True)
class Scene:
    """What there is to see of an expression: its image, all proposals bool (N, H, W), the ground truth bool (H, W) or None."""

    picture: Image.Image
    masks: NDArray[np.bool_]
    truth: NDArray[np.bool_] | None


def scene_of(images: Path, index: Table, proposals: Table, row: int) -> Scene:
    """The scene of the expression in row ``row`` of the index, from the image folder and the tables index and proposals."""
    ref = index["expression_ref"][row]
    image = index["ref_image"][ref]
    height, width = index["image_size"][image]
    return Scene(
        read_image(images, index["image_name"][image], index["image_digest"][image]),
        decode(proposals["mask"][slice(*proposals["image_offsets"][image : image + 2])], height, width),
        decode([index["ref_mask"][ref]], height, width)[0] if index["ref_mask"][ref] else None,
    )


def draw_expression(project: LoadedProject, number: int, dataset: str | None, by_ref: bool, out: Path) -> str:
    """Write the overlay of expression (or of the first expression of ref) ``number`` to ``out``; return a description.

    Raises:
        ParameterError: no such id, or several data sets have it.
    """
    index = read_table(project.table("index.h5"), "index")
    pairs = read_table(project.pairs(), "pairs", ("expression_offsets", "intersection", "union"))
    scores = read_table(project.table("scores.h5"), "scores", None)
    proposals = read_table(project.table("proposals.h5"), "proposals", ("image_offsets", "mask"))
    parse = read_table(project.table("parse.h5"), "parse", ("sentence", "noun_phrase"))
    require_same("show", (parse, "index", index), (proposals, "index", index), (scores, "pairs", pairs))
    require_same("show", (pairs, "index", index), (pairs, "proposals", proposals))
    row = _find(index, number, dataset, by_ref)
    scene = scene_of(project.path(project.values.images), index, proposals, row)
    masks = scene.masks
    pair_rows = slice(*pairs["expression_offsets"][row : row + 2])
    chosen, score = scores[f"chosen.{scores.attrs['rules'][0]}"][row], scores["score"][pair_rows]
    lines = [index["expression_raw"][row], f"noun phrase: {parse['noun_phrase'][row]}"]
    if chosen >= 0:
        inter, union = pairs["intersection"][pair_rows][chosen], pairs["union"][pair_rows][chosen]
        best = np.argsort(-score, kind="stable")[:3]
        truth = "no ground truth" if scene.truth is None else f"IoU {inter / union if union else 0:.3f}"
        lines.append(f"{truth}; best scores: {', '.join(f'{score[i]:.2f} (#{i})' for i in best)}")
    else:
        lines.append("no proposal to choose from")
    rest = np.delete(masks, chosen, axis=0) if chosen >= 0 else masks
    drawn = overlay(
        scene.picture,
        choice=masks[chosen] if chosen >= 0 else None,
        truth=scene.truth,
        proposals=rest,
        caption=lines,
        width=max(640, scene.picture.width),
    )
    write_file(out, encoded(drawn, out.suffix))
    return f"{out}: " + "; ".join(lines)


def _find(index: Table, number: int, dataset: str | None, by_ref: bool) -> int:
    """Row of the expression asked for."""
    groups = index.attrs["groups"]
    ref_of = index["expression_ref"]
    ids = index["ref_id"][ref_of] if by_ref else index["expression_id"]
    rows = np.flatnonzero(ids == number)
    names = [groups[group][0] for group in index["ref_group"][ref_of[rows]]]
    rows = np.array([r for r, name in zip(rows, names, strict=True) if dataset in (None, name)], int)
    kind = "ref" if by_ref else "expression"
    if not len(rows):
        of = f" of data set {dataset!r}" if dataset else ""
        raise ParameterError(
            f"no {kind} {number}{of}; ids go from {ids.min()} to {ids.max()}" if len(ids) else f"no {kind} at all"
        )
    if len(set(names)) > 1 and dataset is None:
        raise ParameterError(
            f"{kind} {number} is in several data sets ({', '.join(sorted(set(names)))}): name one with --dataset"
        )
    return int(rows[0])
