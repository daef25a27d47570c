"""Text features as they are published, taken apart again into parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stages.text.template import BETWEEN
from store.errors import StoreError
from store.fingerprint import fingerprint
from store.vectors import ReadAhead, Vectors
from store.work import Item, Parts


def published_texts(path: Path, parts: Parts) -> PublishedTexts | None:
    """The features that lie at ``path`` from an earlier run with the same encoder; None where none can be read."""
    if not path.is_dir():
        return None
    try:
        vectors = Vectors(path, "text_features")
        made: Mapping[str, str] = vectors.attrs.get("parts", {})
        return PublishedTexts(vectors) if made.get("text") == parts.folder.name else None
    except StoreError:  # damaged, or of another version: what it holds is computed
        return None


class PublishedTexts:
    """A ``stages.contract.Published``: the items of the strings of an earlier run, but for means of several prompts."""

    def __init__(self, vectors: Vectors) -> None:
        self._ahead = ReadAhead(vectors)
        strings = vectors.column("string")
        self._row = {fingerprint(string): row for row, string in enumerate(strings) if BETWEEN not in string}
        self._truncated = vectors.column("truncated")

    def item(self, kind: str, key: str) -> Item | None:
        """The item of a string, as its part had it."""
        row = self._row.get(key)
        if row is None:
            return None
        try:
            feature = self._ahead.rows("feature", row, row + 1)
        except StoreError:
            return None
        return {"feature": feature, "truncated": np.array([self._truncated[row]])}
