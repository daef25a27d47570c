"""The commands about results: ``glimpse export``, ``table`` (docs/results.md) and ``tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli_shared import AsJson, DatasetName, ParamsFile, SplitName, opened
from pipeline.registry import DEFAULT_PARAMS

RuleName = Annotated[
    str, typer.Option(help="RULE of the main encoder (upper_bound too), or ENCODER:RULE; by default see above")
]


def export(
    form: Annotated[str, typer.Option("--format", help="coco, masks, fiftyone, parquet or an extension's")],
    out: Annotated[Path, typer.Option(help="file to write, or a new folder for masks and fiftyone")],
    rule: RuleName = "",
    dataset: DatasetName = None,
    split: SplitName = None,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """What a rule chose for every expression, in a form that other tools read (docs/results.md says what is in each):
    coco, results that pycocotools loads and the ground truth beside them; masks, PNG files; fiftyone, a folder to import;
    parquet, every pair with the scores of all rules. By default the profile's first rule, for parquet every one.

    Nothing is computed but scores: `dvc repro` first. Expressions without a choice are rows too, with the reason.
    """
    from pipeline.commands.export import export as write

    for line in write(opened(params, "score"), form, rule, out, dataset, split):
        print(line)


def table(
    form: Annotated[str, typer.Option("--format", help="md, latex, csv, json or parquet")] = "md",
    per: Annotated[str, typer.Option(help="split or expression: what a row is about")] = "split",
    rule: RuleName = "",
    dataset: DatasetName = None,
    split: SplitName = None,
    out: Annotated[Path | None, typer.Option(help="file to write; without it to standard output")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """The last run's numbers as a table: a row for each split, encoder and rule, or for each expression with what a rule
    chose. By default every rule, per expression the profile's first. Percent with two decimals in md and latex, full
    precision in csv, json and parquet (docs/results.md lists the columns).
    """
    from pipeline.commands import table as tables

    tables.require_form(form, out)
    rows = tables.listing(opened(params, "score", to_errors=out is None), per, rule, dataset, split)
    text = tables.write(rows, form, out)
    print(text if out is None else f"{out}: {len(rows.rows):,} rows", end="" if out is None else "\n")


def tune(
    on: Annotated[list[str], typer.Option(help="DATASET/SPLIT to search on, such as refcoco/val; may be repeated")],
    rule: Annotated[str, typer.Option(help="the rule whose numbers are searched")] = "global_local",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=LEAST:GREATEST, repeated: alpha, beta, a number among the rule's settings, or 'weights.VIEW*TEXT'; by "
            "default alpha and beta from 0 to 1"
        ),
    ] = None,
    measure: Annotated[
        str, typer.Option(help="miou, oiou or p50: what is searched for, the mean over the splits")
    ] = "miou",
    evaluations: Annotated[int, typer.Option(help="at most so many points are tried")] = 200,
    seed: Annotated[int, typer.Option(help="of the search; the same seed finds the same")] = 0,
    encoder: Annotated[str, typer.Option(help="an encoder of the profile, by default the main one")] = "",
    json: AsJson = False,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Search for a rule's weights or parameters on some splits and report what they are worth on the others, never on the
    same: glimpse tune --on refcoco/val --vary alpha=0:1. Expressions whose image was searched on are left out. Changes
    nothing; prints what to write into the params file. A search under `ablations.tune` there stands on the page.
    """
    from pipeline.commands import tune as tuning

    project = opened(params, "score", to_errors=json)
    result = tuning.result_of(project, tuning.search_of(rule, on, vary or (), measure, evaluations, seed), encoder)
    print(tuning.as_json(result)) if json else tuning.print_result(result)
