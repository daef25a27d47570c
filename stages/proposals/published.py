"""Proposals as they are published, taken apart again into parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages.proposals.items import item_of, no_proposals
from store.errors import StoreError
from store.states import State
from store.table import Table, read_table
from store.work import Item, Parts


def published_proposals(path: Path, parts: Parts, sizes: Mapping[str, tuple[int, int]]) -> PublishedProposals | None:
    """The proposals that lie at ``path`` from an earlier run of the same source; None where none can be read.

    Args:
        sizes: key of an image -> its height and width.
    """
    if not path.is_file():
        return None
    try:
        table = read_table(path, "proposals", ("image_offsets", "mask", "score", "status", "state"))
    except StoreError:  # damaged, or of another version: what it holds is computed
        return None
    made: Mapping[str, str] = table.attrs.get("parts", {})
    return PublishedProposals(table, sizes) if parts.folder.name in made.values() else None


class PublishedProposals:
    """A ``stages.contract.Published``: the items of the images of an earlier run."""

    def __init__(self, table: Table, sizes: Mapping[str, tuple[int, int]]) -> None:
        self.table, self.sizes = table, sizes
        self._image = {key: image for image, key in enumerate(table.attrs["keys"]) if key}

    def item(self, kind: str, key: str) -> Item | None:
        """The item of an image, as its part had it."""
        image = self._image.get(key)
        if image is None or key not in self.sizes:
            return None
        start, stop = self.table["image_offsets"][image : image + 2]
        status = self.table["status"][image]
        if start == stop:
            return no_proposals(status, State(self.table["state"][image]))
        return item_of(self.table["mask"][start:stop], self.table["score"][start:stop], *self.sizes[key], status)
