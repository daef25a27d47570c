"""The command line: thin wrappers around the pipeline. ``glimpse COMMAND --help`` says what each does."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from store.errors import GlimpseError

app = typer.Typer(
    help="Zero-shot referring image segmentation with global-local CLIP, as a staged offline pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
fetch = typer.Typer(help="Get weights and data from where their authors keep them. Nothing else ever downloads.")
app.add_typer(fetch, name="fetch", no_args_is_help=True)
ParamsFile = Annotated[Path, typer.Option("--params", envvar="GLIMPSE_PARAMS", help="params file of the profile")]
GivenPath = Annotated[
    Path | None, typer.Option("--from", help="a file or folder that you have: linked or copied, no network")
]
Accept = Annotated[bool, typer.Option("--accept-license", help="you accept the licence that the command prints")]
FULL = Path("params.yaml")
DEMO = Path("demo/params.yaml")


def main() -> None:
    """Run the command line; an error of ours is one message and exit status 1, not a traceback."""
    # Hundreds of threads that wait for each other are no help to small products, and OpenBLAS starts one per core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except GlimpseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context, stage: str) -> None:
    """Run one stage with explicit paths and values, as dvc.yaml does: glimpse run score --pairs FILE ... --alpha 0.5"""
    from pipeline.registry import STAGES
    from pipeline.runner import run_words
    from store.errors import ParameterError, nearest

    if stage not in STAGES:
        raise ParameterError(f"no stage {stage!r}; {nearest(stage, STAGES)}")
    run_words(stage, context.args)


@app.command()
def preflight(params: ParamsFile = FULL) -> None:
    """Say exactly what a profile still needs: data, weights, models, disk room. Exit status 1 if anything is missing."""
    from pipeline.project import load_project
    from pipeline.setup.preflight import check

    project = load_project(params)
    if {project.values.propose.precision, project.values.clip.precision} != {"float32"}:
        from pipeline.setup.doctor import precision_gain

        print(f"note: {precision_gain()}")
    faults = check(project)
    for line in faults:
        print(f"missing: {line}")
    if faults:
        sys.exit(1)
    print("nothing is missing; run: dvc repro" + ("" if params.parent == Path() else f" {params.parent}/dvc.yaml"))


@app.command()
def doctor(params: ParamsFile = FULL) -> None:
    """This machine and everything a profile needs here, ok or missing, with the command that gets it. Exit status 1 if
    anything is missing."""
    from pipeline.project import load_project
    from pipeline.setup.doctor import examine

    if not examine(load_project(params)):
        sys.exit(1)


@fetch.command()
def weights(
    name: Annotated[str, typer.Argument(help="clip, clip-rn50, freesolo or spacy")],
    given: GivenPath = None,
    accept_license: Accept = False,
    params: ParamsFile = FULL,
) -> None:
    """Model weights: downloaded (or taken with --from), checked and put where the profile wants them."""
    from pipeline.project import load_project
    from pipeline.setup.fetch import fetch as fetch_source
    from pipeline.setup.sources import find

    fetch_source(load_project(params), find("weights", name), given, accept_license)


@fetch.command()
def data(
    name: Annotated[str, typer.Argument(help="refcoco, refcoco+, refcocog, phrasecut or coco-train2014")],
    given: GivenPath = None,
    accept_license: Accept = False,
    params: ParamsFile = FULL,
) -> None:
    """Annotations and images: downloaded (or taken with --from), checked and put where the profile wants them."""
    from pipeline.project import load_project
    from pipeline.setup.fetch import fetch as fetch_source
    from pipeline.setup.sources import find

    fetch_source(load_project(params), find("data", name), given, accept_license)


@app.command()
def status(params: ParamsFile = DEMO) -> None:
    """What is computed, what is stale, and how large it is."""
    from pipeline.project import load_project
    from pipeline.status import print_status

    print_status(load_project(params))


@app.command()
def clean(
    params: ParamsFile = DEMO,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be freed")] = False,
) -> None:
    """Free the parts in the work folder that the last run of their stage did not use; names each folder.

    Kept, and named with the reason: what was opened since that run; FreeSOLO's masks, if that run of propose took another
    source's; and all parts of a stage whose values in the profile changed since.
    """
    from pipeline.project import load_project
    from pipeline.status import remove_unused_parts

    found = remove_unused_parts(load_project(params), dry_run)
    done = "would free" if dry_run else "freed"
    for unused in found:
        print(f"{'kept' if unused.kept else done} {unused}")
    print(f"{done} {sum(unused.bytes for unused in found if not unused.kept):,} bytes")


@app.command()
def repair(output: Annotated[Path, typer.Argument(help="the output, or a file in it")]) -> None:
    """Make one output again: through `dvc repro`, after dropping what is damaged of it, in DVC's cache too."""
    from pipeline.commands.repair import repair as repair_output

    for file in repair_output(output):
        print(f"{file}: was damaged, removed from DVC's cache")
    print(f"{output}: made again")


@app.command()
def score(
    params: ParamsFile = DEMO,
    alpha: Annotated[float | None, typer.Option(help="weight of the global visual feature")] = None,
    beta: Annotated[float | None, typer.Option(help="weight of the sentence feature")] = None,
    k: Annotated[int | None, typer.Option(help="masked blocks of the global feature")] = None,
    dataset: Annotated[str | None, typer.Option(help="only this data set")] = None,
) -> None:
    """Metrics at any alpha and beta, straight from the pair table: no vectors, no GPU, nothing is written."""
    from pipeline.commands.tables import print_metrics, scored
    from pipeline.project import load_project

    given = {name: value for name, value in {"alpha": alpha, "beta": beta, "k": k}.items() if value is not None}
    print_metrics(scored(load_project(params), given), dataset)


@app.command()
def metrics(params: ParamsFile = DEMO) -> None:
    """The table of the last run's metrics file, and where its report lies."""
    from pipeline.commands.tables import print_last_run
    from pipeline.project import load_project

    print_last_run(load_project(params))


@app.command()
def sweep(
    params: ParamsFile = DEMO,
    points: Annotated[int, typer.Option(min=2, max=1001, help="grid points of alpha and of beta")] = 21,
    k: Annotated[int | None, typer.Option(help="masked blocks of the global feature")] = None,
    dataset: Annotated[str | None, typer.Option(help="only this data set")] = None,
) -> None:
    """The best alpha and beta of every split over the whole grid; nothing is written."""
    from pipeline.commands.tables import print_best
    from pipeline.project import load_project

    print_best(load_project(params), points, k, dataset)


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="expression id, or ref id with --ref")],
    params: ParamsFile = DEMO,
    dataset: Annotated[str | None, typer.Option(help="data set of the id, where several have it")] = None,
    ref: Annotated[bool, typer.Option("--ref", help="the number is a ref id")] = False,
    out: Annotated[Path, typer.Option(help="PNG file to write")] = Path("overlay.png"),
) -> None:
    """Draw an expression's image with its proposals, ground truth and chosen mask."""
    from pipeline.commands.show import draw_expression
    from pipeline.project import load_project

    print(draw_expression(load_project(params), number, dataset, ref, out))


@app.command()
def segment(
    image: Path,
    text: str,
    params: ParamsFile = DEMO,
    out: Annotated[Path, typer.Option(help="PNG file to write")] = Path("overlay.png"),
    alpha: Annotated[float | None, typer.Option(help="weight of the global visual feature")] = None,
    beta: Annotated[float | None, typer.Option(help="weight of the sentence feature")] = None,
) -> None:
    """Segment one image by one phrase with the configured weights; write an overlay."""
    from pipeline.commands.segment import segment_file
    from pipeline.project import load_project

    print(segment_file(load_project(params), image, text, alpha, beta, out))


@app.command()
def verify(
    golden: Annotated[Path, typer.Option(help="folder of the form of tests/golden; its weights.py is run as code")],
    spacy_model: Annotated[
        str, typer.Option(help="the model that the folder's phrases were made with")
    ] = "en_core_web_sm",
) -> None:
    """Compare with the released code's outputs, a line per quantity: largest error, tolerance, pass or fail.

    The folder's own weights.py rebuilds the synthetic weights: it is run, so name only a folder that you trust. Exit
    status 1 if anything fails. What the folder does not hold is named.
    """
    from pipeline.golden.verify import verify as verify_folder

    if not verify_folder(golden, spacy_model):
        sys.exit(1)
