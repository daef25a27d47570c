"""An index of a few images, files of proposals for them, and what a table should hold, by plain loops over dense masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from stages import propose
from stages.contract import Context, Summary
from store.table import Table, read_table, write_table

Mask = NDArray[np.bool_]
SIZE = (6, 9)  # height, width of every image of these tests but one
NAMES = ["a/one.png", "a/two.png", "b/two.png", "three.png", "four.png", "broken.png"]
IDS = [11, 22, 33, 44, 44, 66]  # 44 is the id of an image in two data sets
BROKEN = 5
SIZES = [SIZE, SIZE, SIZE, (4, 5), SIZE, SIZE]


def write_index(path: Path, instances: dict[int, list[Mask]] | None = None, truths: Sequence[Mask] = ()) -> None:
    """An index of the images above; ``instances``: annotated objects of some; ``truths``: a ref of the first for each."""
    drawn = [(instances or {}).get(row, []) for row in range(len(NAMES))]
    none = np.zeros(0, np.int64)
    columns = {
        "image_name": NAMES,
        "image_id": np.array(IDS),
        "image_size": np.array(SIZES, np.int32),
        "image_digest": [f"{row:064x}" for row in range(len(NAMES))],
        "image_status": ["" if row != BROKEN else "no such file" for row in range(len(NAMES))],
        "instance_offsets": np.concatenate([[0], np.cumsum([len(masks) for masks in drawn])]),
        "instance_mask": [compressed(mask)["counts"].encode() for masks in drawn for mask in masks],
        "ref_group": np.zeros(len(truths), np.int32),
        "ref_image": np.zeros(len(truths), np.int64),
        "ref_id": np.arange(len(truths)),
        "ref_mask": [compressed(mask)["counts"].encode() for mask in truths],
        **{name: [""] * len(truths) for name in ("ref_category", "ref_status")},
        **dict.fromkeys(("expression_id", "expression_ref"), none),
        **{name: [] for name in ("expression_raw", "expression_status")},
    }
    write_table(path, "index", columns, {}, {}, groups=[("drawn", "val")] if truths else [])


class Project:
    """An index and a file of rows in a folder of their own."""

    def __init__(
        self, folder: Path, instances: dict[int, list[Mask]] | None = None, truths: Sequence[Mask] = ()
    ) -> None:
        self.folder = folder
        self.file = folder / "rows.json"
        write_index(folder / "index.h5", instances, truths)

    def propose(self, rows: Any = None, **values: Any) -> tuple[Table, Summary]:
        if rows is not None:
            self.file.write_text(json.dumps(rows))
        paths = propose.Paths(
            index=self.folder / "index.h5",
            images=self.folder,
            input=self.file,
            proposals=self.folder / "proposals.h5",
        )
        params = propose.Params(**{"source": "coco", **values})
        summary = propose.run(params, paths, Context(self.folder / "work"))
        return read_table(paths.proposals, "proposals"), summary


def compressed(mask: Mask) -> dict[str, Any]:
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode()}


def uncompressed(mask: Mask) -> dict[str, Any]:
    """Runs by turns outside and inside, down the columns, by a plain loop."""
    runs, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != value:
                runs.append(0)
                value = not value
            runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def rectangle(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = SIZE) -> Mask:
    mask = np.zeros(size, np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


WITH_GAP = rectangle(0, 0, 2, 6) | rectangle(7, 2, 8, 3)


def row(image_id: int, mask: Mask, score: float | None = 0.5, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"image_id": image_id, "segmentation": compressed(mask), "category_id": 1}
    return {**found, **({} if score is None else {"score": score}), **more}


def plain_box(mask: Mask, rule: str) -> list[float]:
    """XYXY by a plain loop over the columns and rows."""
    box = []
    for lines in (mask.T, mask):
        occupied = [number for number, line in enumerate(lines) if any(line)]
        if rule == "tight":
            box.append((float(occupied[0]), float(occupied[-1] + 1)))
        else:
            centre = sum(occupied) / len(occupied)
            box.append((centre - len(occupied) / 2, centre + len(occupied) / 2))
    (x1, x2), (y1, y2) = box
    return [x1, y1, x2, y2]


def of_image(table: Table, image: int) -> list[tuple[Mask, list[float], float, int]]:
    """Dense mask, box, score and area of each proposal."""
    height, width = SIZES[image]
    return [
        (
            coco.decode({"size": [height, width], "counts": table["mask"][at]}).astype(np.bool_),
            table["box"][at].tolist(),
            float(table["score"][at]),
            int(table["area"][at]),
        )
        for at in range(*table["image_offsets"][image : image + 2].tolist())
    ]


def check(table: Table, image: int, expected: list[tuple[Mask, float]], rule: str = "reference") -> None:
    found = of_image(table, image)
    assert len(found) == len(expected)
    for (mask, box, score, area), (true, its_score) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, true)
        assert score == np.float32(its_score)
        assert area == sum(bool(pixel) for line in true for pixel in line)
        np.testing.assert_allclose(box, plain_box(true, rule), atol=1e-5)


def about_file(project: Project, summary: Summary) -> list[str]:
    """The warnings about the file of masks."""
    return [warning for warning in summary.warnings if warning.startswith(f"{project.file}: ")]
