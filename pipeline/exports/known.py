"""Every form of export of this package, registered by being imported: a new file of this folder gets its name here."""

from __future__ import annotations

from pipeline.exports import coco, fiftyone, masks, parquet
from pipeline.exports.registry import FORMS

__all__ = ["FORMS", "coco", "fiftyone", "masks", "parquet"]
