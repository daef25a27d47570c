"""Stage sweep: the whole alpha x beta surface of every split, and ablation tables, from the pair table alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.base import Context, Listed, Summary
from stages.base import Params as BaseParams
from stages.base import Paths as BasePaths
from stages.fusion import Floats
from stages.metrics import Empty, summarise
from stages.pair_table import Filters, PairTable, Scoring, load_pairs, with_k
from stages.surface import load_kernel, surface
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
    with summary.timed("read"), ThreadPoolExecutor(1) as background:
        loaded = background.submit(load_kernel)
        pairs, attrs = load_pairs(paths.pairs, params.k)
        loaded.result()
    summary.read = {"expressions": len(pairs.group), "pairs": len(pairs.union)}
    alphas, betas = (np.linspace(0, 1, n).round(6) for n in (params.alphas, params.betas))
    with summary.timed("surface"):
        surfaces = surface(pairs.filtered(params), alphas, betas, params.empty, context)
    with summary.timed("ablations"):
        scores = pairs.dots.scores(pairs.alphas(params), params.beta)
        marked = points(pairs, scores, params, params.empty)
        beside = read_differences(paths.differences, attrs["digest"])
        table = ablations(pairs, scores, paths.pairs, attrs["ks"], params)
        table += templates(paths.differences, beside, params)
        switched = differences(paths.differences, beside, pairs, scores, params)
    splits: dict[str, Any] = {}
    for group, ((dataset, split), alpha) in enumerate(zip(pairs.groups, params.alpha_of(pairs.groups), strict=True)):
        own = {name: marked[group][name] for name in surfaces}
        splits.setdefault(dataset, {})[split] = {
            **{name: values[group].round(6).tolist() for name, values in surfaces.items()},
            "chosen": {"alpha": alpha, "beta": params.beta, **own},
            "best": {name: best_point(values[group], alphas, betas) for name, values in surfaces.items()},
        }
    result = {"alphas": alphas.tolist(), "betas": betas.tolist(), "splits": splits, "ablations": table}
    result["differences"] = switched
    with replacing(paths.grid) as temporary:
        temporary.write_text(json.dumps(result) + "\n")
    summary.wrote = {"grid points": len(alphas) * len(betas), "ablations": len(table)}
    return summary


def best_point(
    values: NDArray[np.float64], alphas: NDArray[np.float64], betas: NDArray[np.float64]
) -> dict[str, float]:
    """The grid point with the greatest value (A, B), the first one on ties: its alpha, beta and value."""
    i, j = np.unravel_index(np.argmax(values), values.shape)
    return {"alpha": float(alphas[i]), "beta": float(betas[j]), "value": float(values[i, j])}


def ablations(pairs: PairTable, scores: Floats, path: Path, ks: list[int], params: Params) -> list[dict[str, Any]]:
    """One row per setting and split: every stored k, sentence or phrase only, and each filter of the parameters.

    Args:
        pairs: unfiltered, from file ``path``, which holds global features of ``ks``. scores: at the profile's point (P,).
    """
    rows = _rows(pairs, scores, params, "chosen", f"k = {params.k}, beta = {params.beta:g}")
    for k in ks:
        if k != params.k:
            dots = with_k(pairs, path, k).dots
            rows += _rows(pairs, dots.scores(pairs.alphas(params), params.beta), params, "masked blocks", f"k = {k}")
    for beta, label in ((1.0, "sentence only (beta = 1)"), (0.0, "noun phrase only (beta = 0)")):
        rows += _rows(pairs, pairs.dots.scores(pairs.alphas(params), beta), params, "text", label)
    for name, tried in (("min_score", params.min_scores), ("min_area", params.min_areas), ("top_n", params.top_ns)):
        for value in tried:
            rows += _rows(pairs, scores, params.model_copy(update={name: value}), name, f"{name} = {value:g}")
    return rows


def read_differences(folder: Path, digest: str) -> dict[str, Any]:
    """The lists that stage differences wrote to ``folder``.

    Args:
        digest: of the profile's own pair table.

    Raises:
        StoreError: the folder was made beside another pair table.
    """
    with reading(folder / "differences.json", again("differences")):
        content: dict[str, Any] = json.loads((folder / "differences.json").read_text())
    if content["pairs"] != digest:
        raise StoreError(f"{folder}: was made beside another pair table than the one given; {again('differences')}")
    return content


def templates(folder: Path, beside: dict[str, Any], params: Params) -> list[dict[str, Any]]:
    """One row per prompt and split."""
    rows = []
    for tried in beside["templates"]:
        rows += _beside(folder / tried["file"], params, "template", f'template = "{tried["template"]}"')
    return rows


def differences(
    folder: Path, beside: dict[str, Any], pairs: PairTable, scores: Floats, params: Params
) -> list[dict[str, Any]]:
    """One row per switch and split: each deliberate difference from the released code turned, beside ``as configured``.

    Args:
        folder: output of stage differences, with the lists ``beside``. pairs: the profile's own, unfiltered.
        scores: at the profile's point (P,).
    """
    rows = [{**row, "release": False} for row in _rows(pairs, scores, params, "as configured", "")]
    other: Empty = "skip" if params.empty == "count" else "count"
    policy = params.model_copy(update={"empty": other})
    rows += [{**row, "release": other == "skip"} for row in _rows(pairs, scores, policy, "empty", f"empty = {other}")]
    for switch in beside["switches"]:
        name, setting, scoring = switch["name"], switch["setting"], params
        if name == "release":
            setting, scoring = f"{setting}, empty = skip", params.model_copy(update={"empty": "skip"})
        found = _beside(folder / switch["file"], scoring, name, setting)
        rows += [{**row, "release": switch["release"]} for row in found]
    return rows


def _beside(file: Path, params: Params, name: str, setting: str) -> list[dict[str, Any]]:
    """Rows of another pair table at the profile's point."""
    table = load_pairs(file, params.k)[0]
    return _rows(table, table.dots.scores(table.alphas(params), params.beta), params, name, setting)


def _rows(pairs: PairTable, scores: Floats, params: Scoring, name: str, setting: str) -> list[dict[str, Any]]:
    """One row per split: the metrics of these scores under the filters and the empty policy of ``params``."""
    found = zip(pairs.groups, points(pairs, scores, params, params.empty), strict=True)
    return [
        {"name": name, "setting": setting, "dataset": dataset, "split": split, **values}
        for (dataset, split), values in found
    ]


def points(pairs: PairTable, scores: Floats, filters: Filters, empty: Empty) -> list[dict[str, Any]]:
    """oiou, miou and n, the evaluated expressions, of every group, by the best-scored of the proposals that are kept.

    Args:
        pairs: unfiltered. scores: of its pairs (P,). Any filters over the same scores: nothing is scored or copied again.
    """
    outcome = pairs.outcome(pairs.choice(scores, filters))
    found = []
    for group in range(len(pairs.groups)):
        members = pairs.members(group)
        summed = summarise(outcome.at(members), empty)
        found.append({"oiou": summed["oiou"], "miou": summed["miou"], "n": len(members)})
    return found
