"""Form masks: a PNG for each expression, 255 inside the chosen mask and 0 outside, and a list of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from pipeline.exports.coco import lines_of
from pipeline.exports.predictions import Prediction, predictions
from pipeline.exports.registry import FORMS, Asked, Form, Written
from store.errors import StoreError
from store.publish import replacing
from store.segmentation import decode

LIST = "masks.json"


def write(asked: Asked, out: Path) -> Written:
    """Write ``<data set>/<split>/<expression id>.png`` for each expression below folder ``out``, and ``masks.json``."""
    rule = asked.rules[0]
    found = predictions(asked.run, rule, asked.groups)
    files = _names(asked, found)
    with replacing(out) as folder:
        folder.mkdir()
        for each, name in asked.track(list(zip(found, files, strict=True)), "masks"):
            if name is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(png(each))
        rows = [
            {
                "file": name,
                "image_id": each.image_id,
                **each.ids(),
                "rule": rule,
                "score": each.score,
                **each.answer(),
            }
            for each, name in zip(found, files, strict=True)
        ]
        (folder / LIST).write_text(lines_of(rows), encoding="utf-8")
    written = Written({out: f"{sum(name is not None for name in files):,} masks of rule {rule}, listed in {LIST}"})
    if unsized := files.count(None):
        written.notes.append(f"{unsized:,} expressions have no mask: the size of their image is not known")
    return written


def png(each: Prediction) -> bytes:
    """The chosen mask as an 8-bit grey PNG of the image's size."""
    mask = decode([each.mask], each.height, each.width)[0]
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return stream.getvalue()


def _names(asked: Asked, found: Sequence[Prediction]) -> list[str | None]:
    """The file of each mask below the folder; None where the image has no size."""
    names: list[str | None] = []
    taken: set[str] = set()
    for each in found:
        folder = "/".join(_part(part) for part in (each.dataset, each.split))
        name = f"{folder}/{each.expression_id}.png"
        if name in taken:
            raise StoreError(
                f"{asked.run.path('index')}: expected distinct expression ids within {each.dataset} {each.split} to name files "
                f"by, found {each.expression_id} twice; correct the annotations"
            )
        taken.add(name)
        names.append(name if each.height and each.width else None)
    return names


def _part(name: str) -> str:
    """A name as a folder's: without "/", and neither "." nor ".."."""
    quoted = quote(name, safe="+ ")
    return quoted.replace(".", "%2E") if not quoted.strip(".") else quoted


FORMS.add(
    Form(
        name="masks",
        module=__name__,
        meaning="a folder of PNG masks, <data set>/<split>/<expression id>.png, with a list of them (masks.json)",
        folder=True,
        write=write,
    )
)
