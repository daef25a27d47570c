"""The table of heat maps: which map each expression has, the maps' means inside every mask, and the maps taken apart again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Results
from stages.heat_maps.registry import Asked
from stages.visual.pooling import Pooling, pooling_weights
from store.errors import StoreError
from store.ragged import Bytes, offsets_of
from store.segmentation import decode
from store.table import Table, read_table
from store.work import Item, Parts

POOLINGS: tuple[Pooling, ...] = ("inside", "inside_minus_outside")
_AT_ONCE = 1 << 24
"""Pixels of masks that are pooled at once."""
NOTHING = -1
"""The phrase of an expression that has none: a faulty sentence, or an image that cannot be read."""


def asked_of(index: Table, parse: Table) -> tuple[list[Asked], NDArray[np.int64]]:
    """The distinct phrases of every image, image after image, and the one of each expression, int64 (E,)."""
    image = index["ref_image"][index["expression_ref"]]
    places: dict[tuple[int, str], list[int]] = {}
    for row, (of, sentence) in enumerate(zip(image.tolist(), parse["sentence"], strict=True)):
        if not (index["image_status"][of] or index["expression_status"][row] or parse["status"][row]):
            places.setdefault((of, sentence), []).append(row)
    asked: list[Asked] = []
    phrase_of = np.full(len(image), NOTHING, np.int64)
    for (of, sentence), rows in sorted(places.items()):
        phrase_of[rows] = len(asked)
        raw = tuple(dict.fromkeys(index["expression_raw"][row] for row in rows))
        others = tuple(json.loads(parse["other_phrases"][rows[0]]))
        asked.append(Asked(of, sentence, parse["noun_phrase"][rows[0]], others, raw))
    return asked, phrase_of


def no_phrases(index: Table) -> tuple[list[Asked], NDArray[np.int64]]:
    """`asked_of` where no map is wanted."""
    return [], np.full(len(index["expression_ref"]), NOTHING, np.int64)


def phrase_columns(asked: Sequence[Asked], phrase_of: NDArray[np.int64], offsets: NDArray[np.int64]) -> dict[str, Any]:
    """The columns that no kind changes; ``offsets``: of the pairs of each expression (E+1,)."""
    return {
        "expression_offsets": offsets,
        "expression_phrase": phrase_of,
        "phrase_image": np.array([each.image for each in asked], np.int64),
        "phrase": [each.sentence for each in asked],
    }


def map_columns(results: Results, keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The maps of each kind as they were made, with the keys by which a later run finds them again."""
    columns: dict[str, Any] = {}
    for kind, own in keys.items():
        items = [results.get(kind, key) for key in own]
        columns |= {
            f"map.{kind}": Bytes.of(item["values"].astype("<f4").tobytes() for item in items),
            f"grid.{kind}": np.array([item["grid"][0] for item in items], np.int32).reshape(len(items), 2),
            f"state.{kind}": [item["state"].tobytes().decode() for item in items],
            f"status.{kind}": [item["status"].tobytes().decode() for item in items],
            f"key.{kind}": [key if results.kept(kind, key) else "" for key in own],
        }
    return columns


def map_at(columns: Mapping[str, Any], kind: str, row: int) -> NDArray[np.float32] | None:
    """The map of phrase ``row``, float32 (rows, columns); None where it is lost."""
    if columns[f"state.{kind}"][row]:
        return None
    values = np.frombuffer(columns[f"map.{kind}"][row], "<f4").astype(np.float32)
    return values.reshape(columns[f"grid.{kind}"][row])


def mean_columns(columns: Mapping[str, Any], kinds: Sequence[str], index: Table, proposals: Table) -> dict[str, Any]:
    """Of every pair the means of each kind's map, ``inside.<kind>`` and ``inside_minus_outside.<kind>``: float32 (P,), NaN
    where the map is lost or the mask has no such mean.

    Args:
        columns: those of `phrase_columns` and `map_columns`.
    """
    offsets, phrase_of = columns["expression_offsets"], columns["expression_phrase"]
    found = {
        f"{pooling}.{kind}": np.full(int(offsets[-1]), np.nan, np.float32) for kind in kinds for pooling in POOLINGS
    }
    expressions: dict[int, list[int]] = {}
    for row, phrase in enumerate(phrase_of.tolist()):
        expressions.setdefault(phrase, []).append(row)
    starts = np.searchsorted(columns["phrase_image"], np.arange(len(index["image_size"]) + 1))
    for image in np.flatnonzero(np.diff(starts)).tolist() if kinds else ():
        phrases = range(int(starts[image]), int(starts[image + 1]))
        maps = {(kind, row): map_at(columns, kind, row) for kind in kinds for row in phrases}
        for (name, row), means in _means(image, maps, index, proposals):
            for expression in expressions.get(row, ()):
                found[name][offsets[expression] : offsets[expression + 1]] = means
    return found


def _means(
    image: int, maps: Mapping[tuple[str, int], NDArray[np.float32] | None], index: Table, proposals: Table
) -> Iterator[tuple[tuple[str, int], NDArray[np.float32]]]:
    """((column, phrase), means of the image's masks (N,)) of each map that is not lost."""
    start, stop = proposals["image_offsets"][image : image + 2].tolist()
    height, width = index["image_size"][image].tolist()
    together = max(1, _AT_ONCE // (height * width))
    there = {place: heat for place, heat in maps.items() if heat is not None}
    means = {
        (f"{pooling}.{kind}", row): np.full(stop - start, np.nan, np.float32)
        for kind, row in there
        for pooling in POOLINGS
    }
    for first in range(start, stop, together) if there else ():
        last = min(first + together, stop)
        masks = decode(proposals["mask"][first:last], height, width)
        for grid in dict.fromkeys(heat.shape for heat in there.values()):
            for pooling in POOLINGS:
                weights, nothing = pooling_weights(masks, grid, pooling)
                for (kind, row), heat in there.items():
                    if heat.shape == grid:
                        mean = weights.astype(np.float64) @ heat.ravel().astype(np.float64)
                        means[f"{pooling}.{kind}", row][first - start : last - start] = np.where(nothing, np.nan, mean)
    yield from means.items()


class PublishedMaps:
    """A ``stages.contract.Published``: the maps of an earlier run."""

    def __init__(self, table: Table, kinds: Mapping[str, Parts]) -> None:
        made: Mapping[str, str] = table.attrs.get("parts", {})
        self._columns = table.columns
        self._row = {
            kind: {key: row for row, key in enumerate(table[f"key.{kind}"]) if key}
            for kind, parts in kinds.items()
            if made.get(kind) == parts.folder.name
        }

    def item(self, kind: str, key: str) -> Item | None:
        """The item of a map, as its part had it."""
        row = self._row.get(kind, {}).get(key)
        if row is None:
            return None
        names = {"state": f"state.{kind}", "status": f"status.{kind}"}
        said = {name: np.frombuffer(self._columns[column][row].encode(), np.uint8) for name, column in names.items()}
        values = np.frombuffer(self._columns[f"map.{kind}"][row], "<f4").astype(np.float32)
        return {"values": values, "grid": self._columns[f"grid.{kind}"][row][None], **said}


def published_maps(path: Path, kinds: Mapping[str, Parts]) -> PublishedMaps | None:
    """The maps that lie at ``path`` from an earlier run; None where there are none that can be read."""
    if not path.is_file():
        return None
    try:
        return PublishedMaps(read_table(path, "heat_maps"), kinds)
    except StoreError:  # damaged, or of another version: what it holds is computed
        return None


def pair_offsets(index: Table, proposals: Table) -> NDArray[np.int64]:
    """The pairs of each expression, as the pair table has them: the proposals of its image, int64 (E+1,)."""
    return offsets_of(np.diff(proposals["image_offsets"])[index["ref_image"][index["expression_ref"]]])
