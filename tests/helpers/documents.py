"""Documents of the store (JSON with a digest) that tests invent or change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.document import RUN, write_document


def data_sets(file: Path) -> dict[str, Any]:
    """A metrics file's data sets, read without Glimpse."""
    document = json.loads(file.read_text())
    del document["run"]
    return dict(document)


@contextmanager
def changed(file: Path) -> Iterator[dict[str, Any]]:
    """Yield what a document holds; what became of it is written back with the digest that it has now."""
    content = json.loads(file.read_text())
    run = content.pop(RUN)
    yield content
    write_document(file, content, run["producer"], {n: v for n, v in run.items() if n not in ("producer", "digest")})


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """What a stage's last run left in ``folder``."""
    write_document(folder / f"{record['stage']}.json", record, record["stage"])
