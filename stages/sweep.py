"""Stage sweep: the whole alpha x beta surface of every split, and ablation tables, from the pair table alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.base import Context, Listed, Summary
from stages.base import Params as BaseParams
from stages.base import Paths as BasePaths
from stages.fusion import first_best
from stages.metrics import Empty, summarise
from stages.pair_table import PairTable, Scoring, load_pairs
from store.errors import StoreError, again, reading
from store.publish import replacing


class Grid(BaseParams):
    """The grid, and what the ablation tables try beside it."""

    alphas: int = Field(21, ge=2, le=1001, description="grid points of alpha from 0 to 1")
    betas: int = Field(21, ge=2, le=1001, description="grid points of beta from 0 to 1")
    min_scores: Listed[Annotated[float, Field(ge=0, le=1)]] = Field(
        [], description="thresholds on the generator's confidence"
    )
    min_areas: Listed[Annotated[int, Field(ge=0)]] = Field([], description="least proposal areas, pixels")
    top_ns: Listed[Annotated[int, Field(ge=0)]] = Field([], description="numbers of proposals")


class Params(Scoring, Grid):
    """The grid, and the point that `score` uses: marked on the surface and held in the ablations."""


class Paths(BasePaths):
    pairs: Path
    differences: Path
    grid: Path
    outputs: ClassVar[tuple[str, ...]] = ("grid",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the grid file: the surface of oIoU and mIoU by split, its chosen and best points, and the ablations."""
    summary = Summary()
    with summary.timed("read"):
        pairs, attrs = load_pairs(paths.pairs, params.k)
    summary.read = {"expressions": len(pairs.group), "pairs": len(pairs.union)}
    alphas, betas = (np.linspace(0, 1, n).round(6) for n in (params.alphas, params.betas))
    kept = pairs.filtered(params)
    with summary.timed("surface"):
        surfaces = surface(kept, alphas, betas, params.empty, context)
    splits: dict[str, Any] = {}
    for group, ((dataset, split), alpha) in enumerate(zip(pairs.groups, params.alpha_of(pairs.groups), strict=True)):
        splits.setdefault(dataset, {})[split] = {
            **{name: values[group].round(6).tolist() for name, values in surfaces.items()},
            "chosen": {"alpha": alpha, "beta": params.beta, **point(kept, alpha, params.beta, params.empty, group)},
            "best": {name: best_point(values[group], alphas, betas) for name, values in surfaces.items()},
        }
    with summary.timed("ablations"):
        table = ablations(paths.pairs, params)
        switched = differences(paths.differences, attrs["digest"], kept, params)
    result = {"alphas": alphas.tolist(), "betas": betas.tolist(), "splits": splits, "ablations": table}
    result["differences"] = switched
    with replacing(paths.grid) as temporary:
        temporary.write_text(json.dumps(result) + "\n")
    summary.wrote = {"grid points": len(alphas) * len(betas), "ablations": len(table)}
    return summary


def surface(
    pairs: PairTable, alphas: NDArray[np.float64], betas: NDArray[np.float64], empty: Empty, context: Context
) -> dict[str, NDArray[np.float64]]:
    """``oiou`` and ``miou``, each (groups, A, B), fractions, of every grid point; NaN-free: an empty group gives 0."""
    shape = (len(pairs.groups), len(alphas), len(betas))
    values = {"oiou": np.zeros(shape), "miou": np.zeros(shape)}
    members = [pairs.members(group) for group in range(len(pairs.groups))]
    for i in context.track(range(len(alphas)), "rows of the grid"):
        for j, beta in enumerate(betas):
            outcome = pairs.outcome(first_best(pairs.dots.scores(float(alphas[i]), float(beta)), pairs.offsets))
            for group, rows in enumerate(members):
                summed = summarise(outcome.at(rows), empty)
                for name, target in values.items():
                    target[group, i, j] = summed[name] or 0.0
    return values


def point(pairs: PairTable, alpha: float, beta: float, empty: Empty, group: int) -> dict[str, Any]:
    """oiou and miou of one group at one (alpha, beta)."""
    chosen = first_best(pairs.dots.scores(alpha, beta), pairs.offsets)
    summed = summarise(pairs.outcome(chosen).at(pairs.members(group)), empty)
    return {name: summed[name] for name in ("oiou", "miou")}


def best_point(
    values: NDArray[np.float64], alphas: NDArray[np.float64], betas: NDArray[np.float64]
) -> dict[str, float]:
    """The grid point with the greatest value (A, B), the first one on ties: its alpha, beta and value."""
    i, j = np.unravel_index(np.argmax(values), values.shape)
    return {"alpha": float(alphas[i]), "beta": float(betas[j]), "value": float(values[i, j])}


def ablations(path: Path, params: Params) -> list[dict[str, Any]]:
    """One row per setting and split: every stored k, sentence or phrase only, and each filter of the parameters."""
    pairs, attrs = load_pairs(path, params.k)
    chosen = attrs["k"]
    rows = _ablation(pairs.filtered(params), params, "chosen", f"k = {chosen}, beta = {params.beta:g}")
    for k in attrs["ks"]:
        if k != chosen:
            rows += _ablation(load_pairs(path, k)[0].filtered(params), params, "masked blocks", f"k = {k}")
    for beta, label in ((1.0, "sentence only (beta = 1)"), (0.0, "noun phrase only (beta = 0)")):
        rows += _ablation(pairs.filtered(params), params.model_copy(update={"beta": beta}), "text", label)
    for name, tried in (("min_score", params.min_scores), ("min_area", params.min_areas), ("top_n", params.top_ns)):
        for value in tried:
            filters = params.model_copy(update={name: value})
            rows += _ablation(pairs.filtered(filters), params, name, f"{name} = {value:g}")
    return rows


def differences(folder: Path, digest: str, pairs: PairTable, params: Params) -> list[dict[str, Any]]:
    """One row per switch and split: each deliberate difference from the released code turned, beside ``as configured``.

    Args:
        folder: output of stage differences. pairs: the profile's own, filtered; digest: its file's.

    Raises:
        StoreError: the folder was made beside another pair table.
    """
    rows = [{**row, "release": False} for row in _ablation(pairs, params, "as configured", "")]
    other: Empty = "skip" if params.empty == "count" else "count"
    policy = params.model_copy(update={"empty": other})
    rows += [{**row, "release": other == "skip"} for row in _ablation(pairs, policy, "empty", f"empty = {other}")]
    with reading(folder / "differences.json", again("differences")):
        content = json.loads((folder / "differences.json").read_text())
    if content["pairs"] != digest:
        raise StoreError(f"{folder}: was made beside another pair table than the one given; {again('differences')}")
    for switch in content["switches"]:
        name, setting, scoring = switch["name"], switch["setting"], params
        if name == "release":
            setting, scoring = f"{setting}, empty = skip", params.model_copy(update={"empty": "skip"})
        table = load_pairs(folder / f"{name}.h5", params.k)[0].filtered(params)
        rows += [{**row, "release": switch["release"]} for row in _ablation(table, scoring, name, setting)]
    return rows


def _ablation(pairs: PairTable, params: Params, name: str, setting: str) -> list[dict[str, Any]]:
    rows = []
    for group, ((dataset, split), alpha) in enumerate(zip(pairs.groups, params.alpha_of(pairs.groups), strict=True)):
        row = {"name": name, "setting": setting, "dataset": dataset, "split": split}
        rows.append({**row, **point(pairs, alpha, params.beta, params.empty, group), "n": len(pairs.members(group))})
    return rows
