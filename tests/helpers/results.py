"""A small scored run of two encoders with everything that results must account for, and pycocotools' own evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO
from typer.testing import CliRunner, Result

from pipeline.cli import app
from stages import score as score_stage
from stages.scoring.metrics import metrics_by_encoder
from store.document import read_document
from store.table import read_table, write_table
from tests.helpers.oracles import context, fields, make_pairs
from tests.helpers.profile import demo_values
from tests.helpers.stores import GROUPS, Synthetic, synthetic
from tests.scoring.test_encoders import second_encoder

RULES = ["global_local", "global", "cropping"]
NONE_EVALUATED = ("toy", "testA")
"""A split whose expressions have no state that the metrics count."""
MISSING = 2
"""The image whose file is not there; its expressions are not evaluated."""
LOST = (1, 14, 17)
"""Proposals without a usable local vector, which no rule chooses."""
FAULT = "the file is not there | or_was"


def results_run(folder: Path, seed: int = 3, **values: Any) -> Synthetic:
    """A profile in ``folder`` (params.yaml) that was scored with ``values``: an image without proposals, one without a file, a
    ref without ground truth, lost features, a split without an evaluated expression; encoder ``second`` beside ``vit``."""
    made = synthetic(folder, seed, (5, 0, 7, 1, 9))
    make_pairs(made)
    second = second_encoder(made, folder)
    for path in (made.paths["pairs"], second.paths["pairs"]):
        _without(path)
    params = {"encoder": "vit", "enabled": RULES, "alpha": 0.6, "beta": 0.3, "resamples": 40, **values}
    paths = fields(made, score_stage, metrics=folder / "metrics.json")
    score_stage.run(score_stage.Params(**params), paths, context(folder))
    index = read_table(made.paths["index"], "index")
    (folder / "images").mkdir()
    for image, (height, width) in enumerate(index["image_size"].tolist()):
        if image != MISSING:
            Image.new("RGB", (width, height), (40 * image, 9, 9)).save(folder / "images" / index["image_name"][image])
    profile = demo_values(folder) | {"data": str(folder), "images": str(folder / "images")}
    profile["encoders"]["second"] = profile["encoders"]["vit"]
    (folder / "params.yaml").write_text(yaml.safe_dump(profile))
    return made


def _without(path: Path) -> None:
    """Mark the expressions of ``MISSING`` and of ``NONE_EVALUATED`` in a pair table as not evaluated, and take the local
    vectors of ``LOST`` away."""
    table = read_table(path, "pairs")
    group, image = table["expression_group"], table["expression_image"]
    state, status = list(table["expression_state"]), list(table["expression_status"])
    for row in range(len(group)):
        if image[row] == MISSING:
            state[row], status[row] = "unreadable image", FAULT
        elif GROUPS[group[row]] == NONE_EVALUATED:
            state[row], status[row] = "faulty sentence", "blank"
    attrs = {
        name: value for name, value in table.attrs.items() if name not in ("schema", "version", "columns", "digest")
    }
    lengths = table["view_product.local*local"].copy()
    lengths[list(LOST)] = 0
    columns = table.columns | {"expression_state": state, "expression_status": status}
    columns["view_product.local*local"] = lengths
    write_table(path, "pairs", columns, attrs.pop("config"), attrs.pop("made_from"), **attrs)


def folder_of(made: Synthetic) -> Path:
    return made.paths["index"].parent


def glimpse(made: Synthetic, *words: Any) -> Result:
    """A command on the run; an error of it is raised."""
    done = CliRunner().invoke(app, [*map(str, words), "--params", str(folder_of(made) / "params.yaml")])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def metrics_of(made: Synthetic, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(data set, split) -> what the metrics file says of ``RULE`` or ``ENCODER:RULE``."""
    encoder, _, rule = name.rpartition(":")
    metrics = metrics_by_encoder(read_document(folder_of(made) / "metrics.json", "score"))[encoder]
    return {(dataset, split): metrics[dataset][split][rule] for dataset, split in GROUPS}


def evaluated_by_coco(results: Path, truth: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """oIoU, mIoU, P@0.5 and n of each split by pycocotools alone: result n against annotation n."""
    known = COCO(str(truth))
    loaded = known.loadRes(str(results))
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number, row in loaded.anns.items():
        if row["counted"]:
            two = [known.anns[number]["segmentation"], row["segmentation"]]
            inside, union = (float(masks.area(masks.merge(two, intersect=both))) for both in (True, False))
            rows.setdefault((row["dataset"], row["split"]), []).append((inside, union))
    found = {}
    for group in GROUPS:
        own = np.array(rows.get(group, []), np.float64).reshape(-1, 2)
        iou = own[:, 0] / np.maximum(own[:, 1], 1)
        found[group] = {
            "oiou": own[:, 0].sum() / own[:, 1].sum() if len(own) else None,
            "miou": iou.mean() if len(own) else None,
            "p50": (iou > 0.5).mean() if len(own) else None,
            "n": len(own),
        }
    return found


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    return rows
