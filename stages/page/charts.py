"""Vega-Lite specifications of the report's charts, as plain dicts; the page adds the colours of its theme."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.page.data import Data
from stages.page.surface import Axis, Cut, cut
from stages.scoring.rules.registry import label_of

METRICS = ("oiou", "miou")
METRIC_NAMES = {"oiou": "oIoU", "miou": "mIoU", "p50": "P@0.5"}
_CELLS = 41
"""Grid points shown along an axis; a finer grid is thinned, the marked points stay exact."""
_BINS = 20
_SIDE = 200
_OTHER: dict[Axis, Axis] = {"alpha": "beta", "beta": "alpha"}
_MARKS = {"main": "solid", "rival": "dashed", "upper_bound": "area"}
_LOOKS: dict[str, dict[str, Any]] = {
    "best": {"shape": "cross", "fill": "#ffffff", "stroke": "#11151c", "strokeWidth": 1},
    "in use": {"shape": "circle", "fill": "transparent", "stroke": "#ff2f8b", "strokeWidth": 3},
}


def specs(data: Data) -> dict[str, dict[str, Any]]:
    """Id of an element of the page -> its chart, for every measured split: ``heat-<group>``, ``curves-<group>`` (where there
    is a point in use) and ``iou-<group>``; ``search-<n>`` for every search.

    Each has a ``description``, which a screen reader says in its place, and in ``usermeta.title`` the lines that stand over
    it where it is saved.
    """
    charts: dict[str, dict[str, Any]] = {}
    for group in data.measured:
        name, used = " ".join(data.groups[group]), data.point(group)
        surface = data.grid["splits"][data.groups[group][0]][data.groups[group][1]]
        charts[f"heat-{group}"] = heat_map(data.grid["alphas"], data.grid["betas"], surface, used) | _words(
            f"Heat map of oIoU and mIoU over alpha and beta, {name}. {_said(surface['best'], used)}",
            name,
            "ring: in use, plus: best of the grid" if used else "plus: best of the grid",
        )
        if used is not None:
            cuts = {
                metric: {axis: cut(data.grid, data.groups[group], metric, axis, used[_OTHER[axis]]) for axis in _OTHER}
                for metric in METRICS
            }
            at = [f"{cuts['miou'][axis].at:g}" for axis in ("alpha", "beta")]
            told = _cuts_said(name, cuts["miou"])
            lines = f"solid: over α at β {at[0]}, dashed: over β at α {at[1]}, rings: in use"
            charts[f"curves-{group}"] = curves(cuts, used) | _words(told, name, lines)
        members = (data.group == group) & data.evaluated
        shown = {"main": data.main, "rival": data.rival, "upper_bound": "upper_bound"}
        iou = {part: data.iou[rule][members] for part, rule in shown.items() if rule is not None}
        labels = {part: label_of(rule) for part, rule in shown.items() if rule is not None}
        parts = ", ".join(f"{_MARKS[part]}: {label.lower()}" for part, label in labels.items())
        charts[f"iou-{group}"] = histogram(iou, labels) | _words(_histogram_said(name, iou, labels), name, parts)
    for number, (name, search) in enumerate(data.tuned.items()):
        measure = METRIC_NAMES[search["measure"]]
        charts[f"search-{number}"] = search_path(search) | _words(
            f"Path of the search {name}: {measure} where it searched rises from {percent(search['start'])} % as the profile "
            f"to {percent(search['best'])} % after {search['tried']} points.",
            name,
            f"{measure} on {', '.join(search['on'])}, where it searched",
        )
    return charts


def search_path(search: dict[str, Any]) -> dict[str, Any]:
    """The best value so far, in percent, over the number of points tried; the profile's own as a rule."""
    steps = [{"tried": step["tried"], "value": percent(step["value"])} for step in search["path"]]
    if steps:
        steps.append({"tried": search["tried"], "value": steps[-1]["value"]})
    x = {"field": "tried", "type": "quantitative", "title": "points tried"}
    y = {"field": "value", "type": "quantitative", "title": "%", "scale": {"zero": False}}
    line = {
        "data": {"values": steps},
        "mark": {"type": "line", "interpolate": "step-after", "style": "main"},
        "encoding": {"x": x, "y": y, "tooltip": _tooltip(tried="points tried", value="best so far %")},
    }
    start = {
        "data": {"values": [{"value": percent(search["start"])}]},
        "mark": {"type": "rule", "style": "rival"},
        "encoding": {"y": y, "tooltip": _tooltip(value="as the profile %")},
    }
    return {"width": _SIDE + 60, "height": 150, "layer": [line, start]}


def _words(description: str, *title: str) -> dict[str, Any]:
    return {"description": description, "usermeta": {"title": list(title)}}


def _said(best: dict[str, Any], used: dict[str, Any] | None) -> str:
    at = [] if used is None or used["miou"] is None else [("In use", used["miou"], used)]
    at.append(("Best of the grid", best["miou"]["value"], best["miou"]))
    return " ".join(f"{what}: mIoU {percent(v)} % at alpha {p['alpha']:g}, beta {p['beta']:g}." for what, v, p in at)


def _cuts_said(name: str, cuts: dict[Axis, Cut]) -> str:
    peaks = [
        f"over {axis} at {_OTHER[axis]} {line.at:g} mIoU is highest at {line.peak[0]:g} with {percent(line.peak[1])} %"
        for axis, line in cuts.items()
    ]
    return f"Curves of oIoU and mIoU, {name}: {'; '.join(peaks)}."


def _histogram_said(name: str, iou: dict[str, NDArray[np.float64]], labels: dict[str, str]) -> str:
    shares = [f"{labels[part]} {percent(float((values > 0.5).mean()))} %" for part, values in iou.items()]
    return f"Histogram of IoU, {name}. Share of the expressions with IoU above 0.5: {', '.join(shares)}."


def curves(cuts: dict[str, dict[Axis, Cut]], used: dict[str, Any]) -> dict[str, Any]:
    """oIoU and mIoU in percent along alpha, and along beta, through the point in use (``used``), which is marked.

    Its parameter ``metric`` (oiou or miou) says which of the two is shown.

    Args:
        cuts: metric -> axis -> the surface along it.
    """
    names: dict[Axis, str] = {"alpha": "α", "beta": "β"}
    lines = [
        {"axis": names[axis], "value": value, **{metric: percent(cuts[metric][axis].metric[i]) for metric in METRICS}}
        for axis in names
        for i, value in enumerate(cuts["miou"][axis].values)
    ]
    places = [
        {"axis": names[axis], "value": used[axis], **{metric: percent(used[metric]) for metric in METRICS}}
        for axis in names
    ]
    x = {"field": "value", "type": "quantitative", "title": "α or β", "scale": {"domain": [0, 1]}}
    y = {"field": "shown", "type": "quantitative", "title": "%", "scale": {"zero": False}}
    shown = [{"calculate": "datum[metric]", "as": "shown"}]
    tooltip = _tooltip(axis="along", value="at", oiou="oIoU %", miou="mIoU %")
    layers = [
        {
            "data": {"values": [line for line in lines if line["axis"] == name]},
            "transform": shown,
            "mark": {"type": "line", "style": style, "point": "transparent"},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        }
        for name, style in (("α", "main"), ("β", "rival"))
    ]
    ring = {
        "data": {"values": places},
        "transform": shown,
        "mark": _LOOKS["in use"] | {"type": "point", "size": 90, "opacity": 1},
        "encoding": {"x": x, "y": y, "tooltip": tooltip},
    }
    params = [{"name": "metric", "value": "miou"}]
    return {"width": _SIDE + 60, "height": 150, "params": params, "layer": [*layers, ring]}


def heat_map(
    alphas: list[float], betas: list[float], surface: dict[str, Any], used: dict[str, Any] | None
) -> dict[str, Any]:
    """The alpha x beta surface in percent, the point in use (``used``) and the best one marked.

    Its parameter ``metric`` (oiou or miou) says which of the two is shown.
    """
    cells: list[dict[str, Any]] = [
        {"alpha": alphas[i], "beta": betas[j], "a0": bottom, "a1": top, "b0": left, "b1": right}
        | {metric: percent(surface[metric][i][j]) for metric in METRICS}
        for i, bottom, top in _cells(alphas)
        for j, left, right in _cells(betas)
    ]
    x = {"field": "b0", "type": "quantitative", "title": "β: phrase → sentence", "scale": _domain(betas)}
    y = {"field": "a0", "type": "quantitative", "title": "α: crop → scene", "scale": _domain(alphas)}
    legend = {"title": "%", "format": ".1f", "gradientLength": _SIDE - 20}
    colour = {"field": "shown", "type": "quantitative", "scale": {"scheme": "viridis", "zero": False}, "legend": legend}
    rectangles = {
        "data": {"values": cells},
        "transform": [{"calculate": "datum[metric]", "as": "shown"}],
        "mark": {"type": "rect", "stroke": None},
        "encoding": {"x": x, "x2": {"field": "b1"}, "y": y, "y2": {"field": "a1"}, "color": colour}
        | {"tooltip": _tooltip(alpha="α", beta="β", oiou="oIoU %", miou="mIoU %")},
    }
    x, y = {**x, "field": "beta"}, {**y, "field": "alpha"}
    marks = [
        {
            "data": {"values": _points(surface["best"], used)},
            "transform": [{"filter": f"datum.metric == metric && datum.point == '{point}'"}],
            "mark": look | {"type": "point", "size": 120, "opacity": 1},
            "encoding": {"x": x, "y": y, "tooltip": _tooltip(point="point", alpha="α", beta="β", value="value %")},
        }
        for point, look in _LOOKS.items()
    ]
    params = [{"name": "metric", "value": "miou"}]
    return {"width": _SIDE, "height": _SIDE, "params": params, "layer": [rectangles, *marks]}


def _points(best: dict[str, Any], used: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The point in use and the best point of the grid, for either metric."""
    points = []
    for metric in METRICS:
        shown = [("best", best[metric], best[metric]["value"])]
        if used is not None:
            shown.insert(0, ("in use", used, used[metric]))
        for point, at, value in shown:
            where = {"alpha": at["alpha"], "beta": at["beta"], "value": percent(value)}
            points.append({"point": point, "metric": metric, **where})
    return points


def _cells(values: list[float]) -> list[tuple[int, float, float]]:
    """Position and extent of the cells along an axis: halfway to the neighbours shown, about ``_CELLS`` at most."""
    shown = list(range(0, len(values), ceil(len(values) / _CELLS)))
    shown += [] if shown[-1] == len(values) - 1 else [len(values) - 1]
    middles = [(values[i] + values[j]) / 2 for i, j in pairwise(shown)]
    borders = [round(v, 6) for v in (values[0], *middles, values[-1])]
    return list(zip(shown, borders[:-1], borders[1:], strict=True))


def histogram(iou: dict[str, NDArray[np.float64]], labels: dict[str, str]) -> dict[str, Any]:
    """Share of a split's expressions in each IoU bin; the last bin holds IoU 1.

    Args:
        iou: ``main``, ``rival`` (where there is one) and ``upper_bound``, of equal length. labels: of the same.
    """
    edges = np.linspace(0, 1, _BINS + 1).round(6).tolist()
    counts = {rule: np.histogram(values, edges)[0] for rule, values in iou.items()}
    bins = [
        {"low": low, "high": high}
        | {rule: round(100 * float(count[i]) / max(1, len(iou[rule])), 3) for rule, count in counts.items()}
        for i, (low, high) in enumerate(pairwise(edges))
    ]
    end = {**bins[-1], "low": 1.0, "high": 1.0}  # a step line needs the right border of its last step
    x = {"field": "low", "type": "quantitative", "title": "IoU", "scale": {"domain": [0, 1]}}

    def layer(rule: str, mark: str) -> dict[str, Any]:
        y = {"field": rule, "type": "quantitative", "title": "expressions, %", "stack": None}
        return {"mark": {"type": mark, "interpolate": "step-after", "style": rule}, "encoding": {"x": x, "y": y}}

    titles = {part: f"{label} %" for part, label in labels.items()}
    hover = {
        "mark": {"type": "rect", "opacity": 0},
        "encoding": {"x": x, "x2": {"field": "high"}, "tooltip": _tooltip(low="IoU from", high="to", **titles)},
    }
    lines = [layer(part, "line") for part in ("rival", "main") if part in iou]
    layers = [layer("upper_bound", "area"), *lines, hover]
    return {"width": _SIDE + 90, "height": 150, "data": {"values": [*bins, end]}, "layer": layers}


def percent(value: float | None) -> float | None:
    """A fraction as a number of percent; None stays None."""
    return None if value is None else round(100 * value, 2)


def _domain(values: list[float]) -> dict[str, Any]:
    return {"domain": [values[0], values[-1]], "nice": False, "zero": False}


def _tooltip(**titles: str) -> list[dict[str, str]]:
    return [{"field": field, "title": title} for field, title in titles.items()]
