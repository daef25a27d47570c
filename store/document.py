"""Documents: JSON outputs (metrics, grids, lists, records) that carry a digest of what they hold.

Under the top-level key ``run`` stands who wrote the document and, last, its ``digest``: of canonical JSON of all the rest.
Layout and order of keys do not count; a value edited by hand or a flipped bit does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from store.errors import StoreError, reading, repair
from store.fingerprint import fingerprint
from store.publish import write_file

RUN = "run"
"""The key that is no data set of a metrics file."""
_DIGEST = "digest"


def write_document(
    path: Path, content: Mapping[str, Any], producer: str, run: Mapping[str, Any] | None = None, indent: int | None = 1
) -> None:
    """Write ``content`` and its digest to ``path``, completely or not at all.

    Args:
        content: JSON-able, without NaN and infinities.
        producer: the stage that writes it.
        run: what else stands under ``run``.
        indent: None for one line.

    Raises:
        StoreError: ``content`` has a key ``run`` of its own, or the file cannot be written.
    """
    if RUN in content:
        raise StoreError(f"{path}: {RUN!r} is a reserved name; give the data set another one")
    document = {**content, RUN: {**(run or {}), "producer": producer}}
    document[RUN][_DIGEST] = fingerprint(document)
    write_file(path, json.dumps(document, indent=indent, allow_nan=False) + "\n")


def read_document(path: Path, producer: str, remedy: str = "") -> dict[str, Any]:
    """The document at ``path`` that stage ``producer`` wrote, ``run`` included.

    Args:
        remedy: what to do about a damaged one; by default to make it again.

    Raises:
        StoreError: no file, no JSON, no digest, another digest than its content's, or another stage's document.
    """
    remedy = remedy or repair(path)
    with reading(path, remedy):
        document = json.loads(path.read_text(encoding="utf-8"))
        run = document.get(RUN) if isinstance(document, dict) else None
        if not isinstance(run, dict) or _DIGEST not in run:
            raise StoreError(
                f"{path}: expected a JSON document with a digest under {RUN!r}, found none: another program wrote it, or an "
                f"older version of Glimpse; {remedy}"
            )
        stored, expected = run[_DIGEST], fingerprint(_without_digest(document))
    if stored != expected:
        raise StoreError(
            f"{path}: its content has digest {expected[:12]}, expected {str(stored)[:12]}: it is damaged or was edited; "
            f"{remedy}"
        )
    if run.get("producer") != producer:
        raise StoreError(
            f"{path}: expected a document of stage {producer}, found one of {run.get('producer')}; {remedy}"
        )
    return dict(document)


def read_record(path: Path) -> dict[str, Any]:
    """The record ``<stage>.json`` of a stage's last run. Raises as ``read_document``."""
    return read_document(path, path.stem, "remove it: it only says what the last run of its stage took")


def _without_digest(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, RUN: {name: value for name, value in document[RUN].items() if name != _DIGEST}}


def content_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without ``run``: of a metrics file, the data sets."""
    return {name: value for name, value in document.items() if name != RUN}
