"""Numbers on the terminal: the metrics at any alpha and beta, the last run's, the best points of a sweep."""

from __future__ import annotations

import json
from shutil import get_terminal_size
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.arguments import checked
from pipeline.progress import track
from pipeline.project import LoadedProject, repro
from pipeline.runner import Execution
from stages.contract import Context
from stages.page.tables import percent
from stages.score import Params, choose, metrics_of, rule_scores
from stages.scoring.metrics import metrics_by_encoder
from stages.scoring.rules.registry import label_of
from stages.scoring.surface import surface
from stages.scoring.table import MissingViewError, load_pairs
from stages.sweep import best_point
from store.document import read_document
from store.errors import ParameterError, StoreError, nearest
from store.states import left_out

VALUES = {"oiou": "oIoU", "miou": "mIoU", "p50": "P@0.5", "p70": "P@0.7", "p90": "P@0.9"}


def scored(
    project: LoadedProject,
    given: dict[str, Any],
    encoder: str = "",
    absent: dict[str, MissingViewError] | None = None,
) -> dict[str, Any]:
    """Metrics of the pair table of an encoder (the main one by default) with some scoring values replaced by ``given``.

    A given alpha holds for every data set. Without confidence intervals.

    Args:
        absent: gets the rules that are left out because another encoder of the profile alone has their view.

    Raises:
        ParameterError: no such encoder, or a rule needs a view that its table lacks.
    """
    known = project.values.encoders
    if encoder and encoder not in known:
        raise ParameterError(f"--encoder: no encoder {encoder!r}; {nearest(encoder, known)}")
    values = {**project.values.score.model_dump(), **project.values.rules.model_dump(), **given, "resamples": 0}
    if "alpha" in given:
        values["alpha_by_dataset"] = {}
    params = checked(Params, values, "glimpse score")
    main = project.values.encoder
    if encoder not in ("", main) and "alpha" not in given:
        params = params.for_encoder(encoder, [main, *(name for name in known if name != main)])
    pairs, _ = load_pairs(project.pairs(encoder), params.k)
    absent = {} if absent is None else absent
    scores = rule_scores(pairs, params, absent if len(known) > 1 else None)
    return metrics_of(pairs, params, choose(pairs, scores, params))


def print_scored(
    project: LoadedProject, given: dict[str, Any], encoder: str, dataset: str | None, as_json: bool = False
) -> None:
    """Print what ``scored`` finds, as a table or as JSON (docs/results.md). Raises as ``scored`` and ``print_metrics``."""
    absent: dict[str, MissingViewError] = {}
    metrics, name = scored(project, given, encoder, absent), encoder or project.values.encoder
    if as_json:
        found = {"encoder": name, "given": given, "metrics": {name: _of_dataset(metrics, dataset)}}
        print(_json({**found, "not_scored": list(absent)}))
        return
    if absent:
        print(f"not scored, for want of a view of encoder {name}: {', '.join(absent)}")
    print_metrics(metrics, dataset)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False)


def _of_dataset(metrics: dict[str, Any], dataset: str | None) -> dict[str, Any]:
    """The metrics of one data set, or of all.

    Raises:
        ParameterError: ``dataset`` is not among them.
    """
    if dataset is None:
        return metrics
    if dataset not in metrics:
        raise ParameterError(f"--dataset: no data set {dataset!r}; {nearest(dataset, metrics)}")
    return {dataset: metrics[dataset]}


def print_metrics(metrics: dict[str, Any], dataset: str | None = None) -> None:
    """A table of every split and rule, in percent.

    Raises:
        ParameterError: ``dataset`` is not among the metrics.
    """
    metrics = _of_dataset(metrics, dataset)
    table = narrow_table()
    for name in ("data set", "split", "rule", *VALUES.values(), "n"):
        table.add_column(name, justify="left" if name in ("data set", "split", "rule") else "right")
    for name in metrics:
        for split, rules in metrics[name].items():
            shown = [rule for rule in rules if rule != "counts"]
            for rule in shown:
                row, first = rules[rule], rule == shown[0]
                cells = [percent(row[value]) for value in VALUES]
                table.add_row(
                    name if first else "",
                    split if first else "",
                    label_of(rule),
                    *cells,
                    str(row["n"]),
                    end_section=rule == shown[-1],
                )
    print_table(table)
    for name in metrics:
        for split, content in metrics[name].items():
            if excluded := left_out(content.get("counts", {})):
                print(f"{name} {split}: expressions left out of the metrics: {excluded}")


def narrow_table() -> Table:
    """Narrow enough for a terminal of 80 columns."""
    return Table(box=box.SIMPLE, padding=(0, 0, 0, 1))


def print_table(table: Table) -> None:
    """Print a table in the width of the terminal, and in 80 columns where there is none."""
    Console(width=max(80, get_terminal_size().columns)).print(table)


def last_metrics(project: LoadedProject) -> dict[str, dict[str, Any]]:
    """The metrics file of a profile by encoder, "" for the main one.

    Raises:
        StoreError: there is no metrics file yet, or it is damaged.
    """
    file = project.path(project.values.metrics)
    if not file.is_file():
        raise StoreError(
            f"{file}: expected the metrics of a run, found none; run: {repro(project)} (another profile: --params FILE, or "
            "GLIMPSE_PARAMS)"
        )
    return metrics_by_encoder(read_document(file, "score"))


def print_last_run(project: LoadedProject, as_json: bool = False) -> None:
    """The metrics file as a table, and the path of the report; or both as JSON (docs/results.md).

    Raises:
        StoreError: there is no metrics file yet, or it is damaged.
    """
    found, report = last_metrics(project), project.table("report.html")
    if as_json:
        main = project.values.encoder
        by_name = {encoder or main: metrics for encoder, metrics in found.items()}
        print(_json({"encoder": main, "metrics": by_name, "report": str(report) if report.is_file() else None}))
        return
    for encoder, metrics in found.items():
        if encoder:
            print(f"encoder {encoder}")
        print_metrics(metrics)
    print(f"report: {report}" if report.is_file() else f"no report at {report}; run: {repro(project)}")


def print_best(project: LoadedProject, points: int, k: int | None, dataset: str | None, as_json: bool = False) -> None:
    """The best grid point of every split for oIoU and for mIoU, as a table or as JSON (docs/results.md)."""
    found = best_points(project, points, k, dataset)
    if as_json:
        print(_json({"points": points, "best": found}))
        return
    table = narrow_table()
    for name in ("data set", "split", "measure", "best", "alpha", "beta"):
        table.add_column(name, justify="left" if name in ("data set", "split", "measure") else "right")
    for best in found:
        table.add_row(
            *(best["dataset"], best["split"], VALUES[best["measure"]], percent(best["value"])),
            *(f"{best[name]:.2f}" for name in ("alpha", "beta")),
        )
    print_table(table)


def best_points(project: LoadedProject, points: int, k: int | None, dataset: str | None) -> list[dict[str, Any]]:
    """For each split and measure the best alpha, beta and the value there.

    Raises:
        ParameterError: no such data set, or k was not computed.
    """
    params = project.values.score
    pairs, _ = load_pairs(project.pairs(), params.k if k is None else k)
    names = {name for name, _ in pairs.groups}
    if dataset is not None and dataset not in names:
        raise ParameterError(f"--dataset: no data set {dataset!r}; {nearest(dataset, names)}")
    grid = np.linspace(0, 1, points)
    context = Context(project.path(project.values.work), Execution.from_environment().device, track=track)
    surfaces = surface(pairs.filtered(params), grid, grid, params.empty, context)
    return [
        {"dataset": name, "split": split, "measure": measure, **best_point(values[group], grid, grid)}
        for group, (name, split) in enumerate(pairs.groups)
        for measure, values in surfaces.items()
        if dataset in (None, name)
    ]
