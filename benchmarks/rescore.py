"""The pair table: building it, and what it gives: one (alpha, beta), and whole surfaces of oIoU and mIoU."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.harness import Result, medians
from benchmarks.roofline import Work
from benchmarks.tables import FULL, GROUPS, PROPOSALS, VAL, Features, features, pair_table, size_of
from stages.contract import Context
from stages.scoring.fusion import Dots, first_best
from stages.scoring.products import TEXTS, dot_name, product_columns, text_product_name, view_product_name
from stages.scoring.rules import weighted
from stages.scoring.surface import plain_surface, surface
from stages.scoring.table import Columns, Scoring
from store.ragged import offsets_of

Floats = NDArray[np.float32]
DOTS = {
    "a": ("global.k3", "sentence"),
    "b": ("global.k3", "phrase"),
    "c": ("local", "sentence"),
    "d": ("local", "phrase"),
}
VIEW_PRODUCTS = {
    "global_norm": ("global.k3", "global.k3"),
    "cross_norm": ("global.k3", "local"),
    "local_norm": ("local", "local"),
}
COLUMNS = (*DOTS, *VIEW_PRODUCTS)
GRID = np.linspace(0, 1, 101).round(6)
CONTEXT = Context(work=Path())


def rescore_one(alpha: float = 0.85, beta: float = 0.5) -> Result:
    """Scores and choices of 10,834 expressions x 60 proposals: 512-d vectors fused anew, against the table's columns."""
    made = features(VAL)
    s, p = made.t_global, made.t_local
    text_norms = np.stack([np.vecdot(s, s), np.vecdot(p, p), np.vecdot(s, p)], 1)
    dots = Dots(offsets=offsets_of(np.full(VAL, PROPOSALS)), **built(made), text_norms=text_norms)

    def plain() -> np.ndarray:
        """Each expression's vectors fused again, in float32 as they are stored."""
        scores = []
        for row, i in enumerate(made.image):
            visual = alpha * made.f_global[i] + (1 - alpha) * made.f_local[i]
            text = beta * made.t_global[row] + (1 - beta) * made.t_local[row]
            scores.append(100 * (visual @ text) / (np.linalg.norm(visual, axis=1) * np.linalg.norm(text)))
        for own in scores:
            own.argmax()
        return np.concatenate(scores)

    def ours() -> np.ndarray:
        scores = dots.scores(alpha, beta)
        first_best(scores, dots.offsets)
        return scores

    with threadpool_limits(1):
        error = float(np.abs(ours() - plain()).max() / 100)
        times = medians(plain, ours)
    pairs = len(dots.a)
    work = Work(17 * pairs / 1e9, (7 + 1) * 4 * pairs / 1e9)  # reads seven columns, writes a score
    return Result(
        "rescore_one", *times, error=error, at_most=0.010, note="error of the cosine", stage="score", work=work
    )


def rescore_weighted(views: int = 6) -> Result:
    """A weighted sum of 12 cells (6 views x 2 texts) over 10,834 expressions x 60 proposals, from the table's columns."""
    rng = np.random.default_rng(0)
    offsets = offsets_of(np.full(VAL, PROPOSALS))
    image = np.arange(VAL) // 7
    proposal = (image[:, None] * PROPOSALS + np.arange(PROPOSALS)).ravel()
    names = [f"view{number}" for number in range(views)]
    columns: dict[str, Any] = {"proposal": proposal, "expression_offsets": offsets}
    for view in names:
        columns[view_product_name(view, view)] = rng.uniform(1, 2, proposal[-1] + 1).astype(np.float32)
        columns |= {dot_name(view, text): rng.standard_normal(len(proposal), np.float32) for text in TEXTS}
    columns |= {text_product_name(text, text): rng.uniform(1, 2, VAL).astype(np.float32) for text in TEXTS}
    weights = {f"{view}*{text}": float(rng.uniform(-1, 1)) for view in names for text in TEXTS}
    pairs: Any = SimpleNamespace(offsets=offsets, union=proposal, columns=InMemory(columns, names))
    settings = weighted.Settings(weights=weights)

    def plain() -> Floats:
        """Each cell's cosine by the book, weighted, added up."""
        total, counts = np.zeros(len(proposal)), np.diff(offsets)
        for cell, weight in weights.items():
            view, _, text = cell.rpartition("*")
            length = np.sqrt(columns[view_product_name(view, view)][proposal])
            length = length * np.sqrt(np.repeat(columns[text_product_name(text, text)], counts))
            total += weight * 100 * (columns[dot_name(view, text)] / length)
        return total.astype(np.float32)

    def ours() -> Floats:
        return weighted.scores(pairs, Scoring(), settings)

    error = float(np.abs(ours() - plain()).max() / 100)
    times = medians(plain, ours)
    work = Work(3 * len(weights) * len(proposal) / 1e9, (len(weights) + 1) * 4 * len(proposal) / 1e9)
    return Result(
        "rescore_weighted",
        *times,
        error=error,
        at_most=0.020,
        note="error of the sum of cosines",
        stage="",
        work=work,
    )


class InMemory(Columns):
    """The columns of a pair table that was never written."""

    def __init__(self, columns: dict[str, Any], views: list[str]) -> None:
        self.path, self.views, self.texts, self._read = Path("memory"), views, list(TEXTS), columns


def rescore_surface() -> Result:
    """101 x 101 points over 10,834 expressions x 60 proposals, compared with the plain evaluation at every one."""
    pairs = pair_table(VAL)
    start = time.perf_counter()
    expected = plain_surface(pairs, GRID, GRID, "count")
    plain = time.perf_counter() - start
    ours = medians(lambda: surface(pairs, GRID, GRID, "count", CONTEXT))[0]
    error = _largest(surface(pairs, GRID, GRID, "count", CONTEXT), expected)
    work = Work(
        len(GRID) * 16 * len(pairs.dots.a) / 1e9, size_of(pairs) / 1e9
    )  # projections at every alpha, the table once
    note = "error over all 10,201 points"
    return Result("rescore_surface", plain, ours, error=error, at_most=1.0, note=note, stage="sweep", work=work)


def rescore_surface_full(step: int = 20) -> Result:
    """101 x 101 points of nine splits over 66,000 expressions x 60 proposals, compared at every ``step``-th row and column."""
    pairs = pair_table(FULL, groups=len(GROUPS))
    some = GRID[::step]
    start = time.perf_counter()
    expected = plain_surface(pairs, some, some, "count")
    plain = (time.perf_counter() - start) * (len(GRID) / len(some)) ** 2
    ours = medians(lambda: surface(pairs, GRID, GRID, "count", CONTEXT), repeats=3)[0]
    table = size_of(pairs)
    tracemalloc.start()
    found = surface(pairs, GRID, GRID, "count", CONTEXT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    error = _largest({name: values[:, ::step, ::step] for name, values in found.items()}, expected)
    note = (
        f"plain: {len(some) ** 2} points, scaled; table {table / 1e6:.0f} MB, {peak / 1e6:.0f} MB beside it, "
        f"{1 + peak / table:.2f} times the table in all (at most 3)"
    )
    return Result("rescore_surface_full", plain, ours, error=error, at_most=6.0, note=note)


def pair_build() -> Result:
    """The float columns of 10,834 expressions x 60 proposals from 512-d vectors: an expression at a time, and as the stage."""
    made = features(VAL)
    f_global, f_local = (rows.reshape(-1, rows.shape[2]) for rows in (made.f_global, made.f_local))

    def plain() -> dict[str, Floats]:
        out: dict[str, list[Floats]] = {name: [] for name in COLUMNS}
        for e, i in enumerate(made.image):
            rows = np.arange(i * PROPOSALS, (i + 1) * PROPOSALS)
            f, l, s, p = f_global[rows], f_local[rows], made.t_global[e], made.t_local[e]
            values = f @ s, f @ p, l @ s, l @ p, (f * f).sum(1), (f * l).sum(1), (l * l).sum(1)
            for name, value in zip(COLUMNS, values, strict=True):
                out[name].append(value)
        return {name: np.concatenate(values) for name, values in out.items()}

    with threadpool_limits(1):
        expected, found = plain(), built(made)
        error = max(float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in COLUMNS)
        times = medians(plain, lambda: built(made), repeats=5, warm_up=False)
    pairs, proposals, width = len(found["a"]), *f_global.shape
    flop = 2 * width * (4 * pairs + 3 * proposals)
    size = f_global.nbytes + f_local.nbytes + made.texts.nbytes + sum(column.nbytes for column in found.values())
    note, work = "one BLAS thread, features in memory", Work(flop / 1e9, size / 1e9)
    return Result("pair_build", *times, error=error, at_least=10.0, note=note, stage="pair", work=work)


@dataclass(frozen=True)
class Held:
    """Vectors in memory that can be read as those of the store."""

    columns: dict[str, NDArray[Any]]

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        return self.columns[name][start:stop]

    def column(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def members(self, family: str) -> list[str]:
        return sorted(name.removeprefix(f"{family}.") for name in self.columns if name.startswith(f"{family}."))


def built(made: Features) -> dict[str, Floats]:
    """The columns as stage pair computes them."""
    width, expressions = made.f_local.shape[2], len(made.image)
    masks = Held({"view.local": made.f_local.reshape(-1, width), "view.global.k3": made.f_global.reshape(-1, width)})
    strings = np.arange(expressions)
    text = Held({"feature": made.texts, "sentence_string": strings, "phrase_string": strings + expressions})
    count = made.f_local.shape[1]
    offsets = np.arange(len(made.f_local) + 1) * count
    proposal = (made.image[:, None] * count + np.arange(count)).ravel()
    columns = product_columns(masks, text, offsets, made.image, CONTEXT)  # type: ignore[arg-type]
    by_proposal = {name: view_product_name(*two) for name, two in VIEW_PRODUCTS.items()}
    return {
        **{name: columns[dot_name(*cell)] for name, cell in DOTS.items()},
        **{name: columns[column][proposal] for name, column in by_proposal.items()},
    }


def _largest(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> float:
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)
