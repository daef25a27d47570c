"""The numbers of a run as a table for papers and programs: ``glimpse table``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.commands.scored_runs import Run, groups_of, own_side
from pipeline.commands.tables import last_metrics
from pipeline.exports.predictions import predictions
from pipeline.listings.arrow import write_listing
from pipeline.listings.listing import Field, Listing
from pipeline.listings.text import TEXTS
from pipeline.project import LoadedProject
from stages.scoring.rules.registry import REFERENCES, label_of
from store.errors import ParameterError, nearest
from store.publish import write_file
from store.states import EVALUATED, State

FORMATS = (*TEXTS, "parquet")
_LOST = tuple(state for state in State if state not in EVALUATED)
BY_SPLIT = (
    Field("dataset", "text", "Data set"),
    Field("split", "text", "Split"),
    Field("encoder", "text", "Encoder"),
    Field("rule", "text"),
    Field("label", "text", "Rule"),
    Field("oiou", "percent", "oIoU"),
    Field("oiou_low", "percent"),
    Field("oiou_high", "percent"),
    Field("miou", "percent", "mIoU"),
    Field("miou_low", "percent", "from"),
    Field("miou_high", "percent", "to"),
    Field("p50", "percent", "P@0.5"),
    Field("p70", "percent", "P@0.7"),
    Field("p90", "percent", "P@0.9"),
    Field("n", "count", "n"),
    Field("expressions", "count"),
    Field("refs", "count"),
    Field("images", "count"),
    Field("no_choice", "count", "No choice"),
    Field("not_evaluated", "count", "Left out"),
    *(Field(state.replace(" ", "_"), "count") for state in _LOST),
)
BY_EXPRESSION = (
    Field("dataset", "text", "Data set"),
    Field("split", "text", "Split"),
    Field("ref_id", "count", "Ref"),
    Field("expression_id", "count", "Expression"),
    Field("image_id", "count"),
    Field("image", "text", "Image"),
    Field("category", "text"),
    Field("sentence", "text", "Sentence"),
    Field("phrase", "text", "Noun phrase"),
    Field("rule", "text"),
    Field("proposal", "count", "Proposal"),
    Field("intersection", "count"),
    Field("union", "count"),
    Field("iou", "percent", "IoU"),
    Field("score", "number", "Score"),
    Field("margin", "number", "Margin"),
    Field("counted", "flag"),
    Field("state", "text", "State"),
    Field("status", "text"),
)


def listing(
    project: LoadedProject, per: str, rule: str, dataset: str | None = None, split: str | None = None
) -> Listing:
    """The rows of the last run: one for each split, encoder and rule, or one for each expression and a rule's answer.

    Args:
        per: split or expression. rule: only this one, as ``glimpse compare`` names a side; "" for all, by expression for
            the first.

    Raises:
        ParameterError: no such value of ``per``, rule, data set or split.
    """
    if per == "expression":
        side = own_side(project, rule)
        found = predictions(side.run, side.name, groups_of(side.run, dataset, split))
        names = [field.name for field in BY_EXPRESSION if field.name != "rule"]
        return Listing(
            BY_EXPRESSION, [{"rule": side.name, **{name: getattr(each, name) for name in names}} for each in found]
        )
    if per != "split":
        raise ParameterError(f"--per: no {per!r}; {nearest(per, ('split', 'expression'))}")
    run = Run("", project.table(""), project)
    groups = groups_of(run, dataset, split)
    wanted = rule if rule in REFERENCES or not rule else own_side(project, rule).name
    rows = [
        row
        for encoder, metrics in last_metrics(project).items()
        for row in _split_rows(metrics, encoder or run.encoder)
        if (row["dataset"], row["split"]) in groups
        and wanted in ("", row["rule"] if not encoder else f"{encoder}:{row['rule']}")
    ]
    return Listing(BY_SPLIT, rows)


def _split_rows(metrics: dict[str, Any], encoder: str) -> list[dict[str, Any]]:
    """The rows of one encoder's metrics, as they stand in the metrics file."""
    rows = []
    for dataset, splits in metrics.items():
        for split, content in splits.items():
            counts = content["counts"]
            evaluated = counts["expressions"] - counts["not_evaluated"]
            for rule, values in content.items():
                if rule == "counts":
                    continue
                row = {"dataset": dataset, "split": split, "encoder": encoder, "rule": rule, "label": label_of(rule)}
                row |= {name: values[name] for name in ("oiou", "miou", "p50", "p70", "p90", "n")}
                for name in ("oiou", "miou"):
                    row[f"{name}_low"], row[f"{name}_high"] = values.get(f"{name}_ci") or (None, None)
                row |= {name: counts[name] for name in ("expressions", "refs", "images", "not_evaluated")}
                row["no_choice"] = evaluated - values["skip"]["n"]
                row |= {state.replace(" ", "_"): counts[state] for state in _LOST}
                rows.append(row)
    return rows


def write(rows: Listing, form: str, out: Path | None) -> str:
    """Write the listing to ``out``; without one return it as text.

    Returns:
        The text, "" where it was written to a file.

    Raises:
        ParameterError: no such form, or Parquet without a file.
        CodeError: pyarrow is not installed.
    """
    require_form(form, out)
    if form == "parquet":
        assert out is not None
        write_listing(rows, out)
        return ""
    text = TEXTS[form](rows)
    if out is None:
        return text
    write_file(out, text)
    return ""


def require_form(form: str, out: Path | None) -> None:
    """Raise a ParameterError for a form that is not known, or that needs a file and has none."""
    if form not in FORMATS:
        raise ParameterError(f"--format: no format {form!r}; {nearest(form, FORMATS)}")
    if form == "parquet" and out is None:
        raise ParameterError("--format parquet: expected a file to write, Parquet is not text; name one with --out")
