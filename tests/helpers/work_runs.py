"""A stand-in for a stage that keeps its results in the work folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.contract import Context, Summary, compute_missing
from store.units import Result
from store.work import Item, Parts

KEYS = [f"image-{i}" for i in range(10)]


def item(key: str, kind: str = "kind") -> Item:
    """A ragged result that only its key and kind decide: rows of two arrays, none for some keys."""
    seed = sum(f"{kind}/{key}".encode())
    rows = np.random.default_rng(seed).normal(size=(seed % 4, 3)).astype(np.float32)
    return {"feature": rows, "text": np.frombuffer(f"{kind} {key} é".encode(), np.uint8)}


def same(got: Item, expected: Item) -> bool:
    return set(got) == set(expected) and all(
        got[n].dtype == expected[n].dtype and np.array_equal(got[n], expected[n]) for n in expected
    )


class Computer:
    """What a stage hands to ``compute_missing``; remembers every call."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.loads = 0
        self.units: list[tuple[list[str], tuple[str, ...]]] = []

    def load(self, device: str) -> Callable[[Sequence[int], tuple[str, ...]], list[Result]]:
        self.loads += 1
        return self.compute

    def compute(self, positions: Sequence[int], kinds: tuple[str, ...]) -> list[Result]:
        keys = [self.keys[p] for p in positions]
        self.units.append((keys, kinds))
        return [
            Result({kind: item(key, kind) for kind in kinds}, [f"{key} is odd"] if key[-1] == "3" else [])
            for key in keys
        ]

    @property
    def computed(self) -> list[str]:
        return [key for keys, _ in self.units for key in keys]


def run(
    work: Path, keys: Sequence[str], kinds: Sequence[str] = ("kind",), unit: int = 3, **config: Any
) -> tuple[Computer, dict[str, Parts], Summary]:
    """One run of a stage: open the parts, compute what they lack, and check that all can be read, in any order."""
    parts = {kind: Parts(work, kind, config) for kind in kinds}
    computer, summary = Computer(keys), Summary()
    compute_missing(
        parts,
        dict.fromkeys(parts, keys),
        range(len(keys)),
        computer.load,
        Context(work=work, unit=unit),
        summary,
        "images",
    )
    for opened in (parts, {kind: Parts(work, kind, config) for kind in kinds}):
        for kind, part in opened.items():
            assert all(same(part.get(key), item(key, kind)) for key in (*keys, *reversed(keys)))
    assert summary.computed["images"] + summary.reused["images"] == len(set(keys))
    assert summary.computed["images"] == len(computer.computed)
    assert computer.loads == bool(computer.units)
    return computer, parts, summary


def part_files(parts: Parts) -> list[Path]:
    return sorted(parts.folder.glob("*.npz"))


def manifest(parts: Parts) -> Path:
    return parts.folder / "manifest.jsonl"
