"""Stage sweep: the whole alpha x beta surface of every split, from the pair table alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from stages.contract import Context, Listed, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.scoring.plots import surface_table
from stages.scoring.surface import load_kernel, surface
from stages.scoring.table import LOCAL, PHRASE, SENTENCE, Evaluation, load_pairs, with_view
from store.document import write_document
from store.publish import write_file


class Grid(BaseParams):
    """The grid."""

    alphas: int = Field(21, ge=2, le=1001, description="grid points of alpha from 0 to 1")
    betas: int = Field(21, ge=2, le=1001, description="grid points of beta from 0 to 1")
    views: Listed[str] = Field(
        [],
        max_length=2,
        description="labels of the two views that alpha mixes, the first at alpha 1; none: global and local",
    )
    texts: Listed[Literal["sentence", "phrase"]] = Field(
        ["sentence", "phrase"], min_length=2, max_length=2, description="two texts that beta mixes, the first at beta 1"
    )

    @field_validator("views")
    @classmethod
    def _are_two(cls, views: list[str]) -> list[str]:
        if len(views) == 1:
            raise ValueError(f"expected two views, or none for global and local, got {views[0]!r} alone")
        return views


class Params(Evaluation, Grid):
    """The grid, and what holds at each of its points. Not the profile's own point: another alpha changes no surface."""


class Paths(BasePaths):
    pairs: Path
    grid: Path
    surface_plot: Path
    outputs: ClassVar[tuple[str, ...]] = ("grid", "surface_plot")


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the grid file: the surfaces of oIoU and mIoU by data set and split, and the best point of each."""
    summary = Summary()
    with summary.timed("read"), ThreadPoolExecutor(1) as background:
        loaded = background.submit(load_kernel)
        pairs, attrs = load_pairs(paths.pairs, params.k)
        loaded.result()
        if params.views or params.texts != [SENTENCE, PHRASE]:
            first, second = params.views or (f"global.k{params.k}", LOCAL)
            pairs = with_view(pairs, first, second, (params.texts[0], params.texts[1]))
    summary.read = {"expressions": len(pairs.group), "pairs": len(pairs.union)}
    alphas, betas = (np.linspace(0, 1, n).round(6) for n in (params.alphas, params.betas))
    with summary.timed("surface"):
        surfaces = surface(pairs.filtered(params), alphas, betas, params.empty, context)
    splits: dict[str, Any] = {}
    for group, (dataset, split) in enumerate(pairs.groups):
        splits.setdefault(dataset, {})[split] = {
            **{name: values[group].round(6).tolist() for name, values in surfaces.items()},
            "best": {name: best_point(values[group], alphas, betas) for name, values in surfaces.items()},
        }
    grid = {"alphas": alphas.tolist(), "betas": betas.tolist(), "splits": splits}
    write_document(paths.grid, grid, "sweep", {"pairs": attrs["digest"]}, indent=None)
    write_file(paths.surface_plot, surface_table(grid))
    summary.wrote = {"grid points": len(alphas) * len(betas)}
    return summary


def best_point(
    values: NDArray[np.float64], alphas: NDArray[np.float64], betas: NDArray[np.float64]
) -> dict[str, float]:
    """The grid point with the greatest value (A, B), the first one on ties: its alpha, beta and value."""
    i, j = np.unravel_index(np.argmax(values), values.shape)
    return {"alpha": float(alphas[i]), "beta": float(betas[j]), "value": float(values[i, j])}
