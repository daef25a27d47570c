"""The command line: thin wrappers around the pipeline. ``glimpse COMMAND --help`` says what each does."""

from __future__ import annotations

import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from pipeline import cli_checks, cli_pictures, cli_results
from pipeline.cli_shared import AsJson, DatasetName, ParamsFile, SplitName, opened
from pipeline.foreign import close_output, report
from pipeline.progress import VERBOSITY
from pipeline.registry import DEFAULT_PARAMS
from store.errors import plain

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
fetch = typer.Typer(help="Get weights and data from where their authors keep them. Nothing else ever downloads.")
app.add_typer(fetch, name="fetch", no_args_is_help=True)
app.command()(cli_pictures.predict)
app.command()(cli_pictures.segment)
app.command()(cli_results.export)
app.command()(cli_results.table)
app.command()(cli_results.tune)
app.command()(cli_checks.check)
HELP = "--help"
GivenPath = Annotated[
    Path | None, typer.Option("--from", help="a file or folder that you have: linked or copied, no network")
]
Accept = Annotated[bool, typer.Option("--accept-license", help="you accept the licence that the command prints")]
_SIDE = (
    "RULE: of the main encoder, upper_bound too; ENCODER:RULE: of that encoder of the profile; or another run: FILE:RULE, "
    "FILE:ENCODER:RULE, or FILE for its first rule, with FILE the params file of its profile or the scores.h5 in its data "
    "folder (a path that ends in .yaml, .yml or .h5)"
)


def main() -> None:
    """Run the command line; any error is one message and exit status 1, not a traceback (see ``pipeline.foreign``)."""
    # Hundreds of threads that wait for each other are no help to small products, and OpenBLAS starts one per core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text of the terminal's encoding
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        if end.code == 128 + signal.SIGINT:
            print("interrupted: what was computed is kept, the same command goes on from there", file=sys.stderr)
        raise
    except BrokenPipeError:  # `glimpse metrics | head` has seen enough
        close_output()
        sys.exit(1)
    except Exception as error:
        print(report(error, sys.argv[1:]), file=sys.stderr)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pipeline.identity import code_version

        known = code_version()
        print(
            f"glimpse {known}" if known else "glimpse, not installed as a package: its version is not known (make env)"
        )
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and end")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bars; of stages only warnings")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="of stages every row with a reason and the seconds of every step")
    ] = False,
) -> None:
    """Zero-shot referring image segmentation with global-local CLIP, as a staged offline pipeline."""
    if quiet and verbose:
        raise typer.BadParameter("expected --quiet or --verbose, got both")
    if quiet or verbose:
        os.environ[VERBOSITY] = "quiet" if quiet else "verbose"  # for the stages that `dvc repro` starts, too


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="--profile FILE [--NAME VALUE ...]",
)
def run(context: typer.Context, stage: Annotated[str, typer.Argument(help="as in dvc.yaml")] = HELP) -> None:
    """Run one stage: glimpse run score --profile params.yaml --alpha 0.5. `glimpse run STAGE --help` lists all its values.

    Exit status 1 also where files were not there (see the message): what could be computed is kept.
    """
    from pipeline.registry import STAGES
    from pipeline.runner import run_words
    from store.errors import ParameterError, nearest

    if stage == HELP or HELP in context.args:
        from pipeline.commands.stage_help import stage_help, stages_help

        if stage not in (HELP, *STAGES):
            raise ParameterError(f"no stage {stage!r}; {nearest(stage, STAGES)}")
        print(stages_help() if stage == HELP else stage_help(stage))
        return
    if stage not in STAGES:
        raise ParameterError(f"no stage {stage!r}; {nearest(stage, STAGES)}")
    if run_words(stage, context.args)["stopped"]:
        sys.exit(1)


@app.command()
def preflight(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Say exactly what a profile still needs: data, weights, models, memory, disk room, and what each stage will take. Exit
    status 1 if anything is missing."""
    from pipeline.project import repro
    from pipeline.setup.preflight import examined

    project = opened(params)
    encoders = project.values.encoders.values()
    if {project.values.propose.precision, *(encoder.precision for encoder in encoders)} != {"float32"}:
        from pipeline.setup.doctor import precision_gain

        print(f"note: {precision_gain()}")
    faults, stages = examined(project)
    for stage in stages:
        print(stage)
    for line in faults:
        print(f"missing: {plain(line)}")
    if faults:
        sys.exit(1)
    print(f"nothing is missing; run: {repro(project)}")


@app.command()
def doctor(
    params: ParamsFile = DEFAULT_PARAMS,
    json: AsJson = False,
    dvc: Annotated[
        bool, typer.Option("--dvc", help="Only what DVC looks for before a stage: the first of dvc.yaml.")
    ] = False,
) -> None:
    """This machine and everything a profile needs here, ok or missing, with the command that gets it. Exit status 1 if
    anything is missing."""
    from pipeline.setup import doctor as examination

    if dvc:
        from pipeline.setup.inputs import require_inputs

        require_inputs(opened(params))
        return
    project = opened(params, to_errors=json)
    if not (examination.print_json(project) if json else examination.examine(project)):
        sys.exit(1)


@fetch.command()
def weights(
    name: Annotated[str, typer.Argument(help="clip, clip-rn50, freesolo or spacy")],
    given: GivenPath = None,
    accept_license: Accept = False,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Model weights: downloaded (or taken with --from), checked and put where the profile wants them."""
    from pipeline.setup.fetch import fetch as fetch_source
    from pipeline.setup.sources import find

    fetch_source(opened(params), find("weights", name), given, accept_license)


@fetch.command()
def data(
    name: Annotated[
        str,
        typer.Argument(
            help="refcoco, refcoco+, refcocog, phrasecut or coco-train2014; or a data set of the profile that has its pictures "
            "in its own files (Parquet): they are unpacked"
        ),
    ],
    given: GivenPath = None,
    accept_license: Accept = False,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Annotations and images: downloaded (or taken with --from), checked and put where the profile wants them."""
    from pipeline.setup.fetch import fetch as fetch_source
    from pipeline.setup.pictures import holds_pictures, unpack_pictures
    from pipeline.setup.sources import find

    project = opened(params)
    if holds_pictures(project, name):
        unpack_pictures(project, name, given)
    else:
        fetch_source(project, find("data", name), given, accept_license)


@app.command()
def status(params: ParamsFile = DEFAULT_PARAMS, json: AsJson = False) -> None:
    """What is computed, what is stale, and how large it is."""
    from pipeline.status import as_json, print_status

    project = opened(params, to_errors=json)
    print(as_json(project)) if json else print_status(project)


@app.command()
def clean(
    params: ParamsFile = DEFAULT_PARAMS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be freed")] = False,
) -> None:
    """Free the parts in the work folder that the last run of their stage did not use; names each folder.

    Kept, and named with the reason: what was opened since that run; FreeSOLO's masks, if that run of propose took another
    source's; and all parts of a stage whose values in the profile changed since.
    """
    from pipeline.status import remove_unused_parts

    folders = remove_unused_parts(opened(params), dry_run)
    done = "would free" if dry_run else "freed"
    for unused in folders:
        print(f"{'kept' if unused.kept else done} {unused}")
    print(f"{done} {sum(unused.bytes for unused in folders if not unused.kept):,} bytes")


@app.command()
def repair(output: Annotated[Path, typer.Argument(help="the output, or a file in it")]) -> None:
    """Make one output again: through `dvc repro`, after dropping what is damaged of it, in DVC's cache too."""
    from pipeline.commands.repair import repair as repair_output

    for file in repair_output(output):
        print(f"{file}: was damaged, removed from DVC's cache")
    print(f"{output}: made again")


@app.command()
def score(
    params: ParamsFile = DEFAULT_PARAMS,
    alpha: Annotated[float | None, typer.Option(help="weight of the global visual feature")] = None,
    beta: Annotated[float | None, typer.Option(help="weight of the sentence feature")] = None,
    k: Annotated[int | None, typer.Option(help="masked blocks of the global feature")] = None,
    dataset: DatasetName = None,
    encoder: Annotated[str, typer.Option(help="of the profile's encoders; the main one by default")] = "",
    json: AsJson = False,
) -> None:
    """Metrics at any alpha and beta, straight from the pair table: no vectors, no GPU, nothing is written."""
    from pipeline.commands.tables import print_scored

    given = {name: value for name, value in {"alpha": alpha, "beta": beta, "k": k}.items() if value is not None}
    print_scored(opened(params, "pair", to_errors=json), given, encoder, dataset, json)


@app.command()
def metrics(params: ParamsFile = DEFAULT_PARAMS, json: AsJson = False) -> None:
    """The table of the last run's metrics file, and where its report lies."""
    from pipeline.commands.tables import print_last_run

    print_last_run(opened(params, "score", to_errors=json), json)


@app.command()
def sweep(
    params: ParamsFile = DEFAULT_PARAMS,
    points: Annotated[int, typer.Option(min=2, max=1001, help="grid points of alpha and of beta")] = 21,
    k: Annotated[int | None, typer.Option(help="masked blocks of the global feature")] = None,
    dataset: DatasetName = None,
    json: AsJson = False,
) -> None:
    """The best alpha and beta of every split over the whole grid; nothing is written."""
    from pipeline.commands.tables import print_best

    print_best(opened(params, "pair", to_errors=json), points, k, dataset, json)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    b: Annotated[str, typer.Argument(metavar="B", help="likewise; differences are A less B")],
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: DatasetName = None,
    split: SplitName = None,
    json: AsJson = False,
    pictures: Annotated[Path | None, typer.Option(help="folder for overlays of flips")] = None,
    most: Annotated[int, typer.Option("--flips", min=1, help="pictures of each kind and split")] = 8,
    resamples: Annotated[int | None, typer.Option(min=0, max=100_000, help="default: bootstrap.resamples")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of the resampling; default: bootstrap.seed")] = None,
) -> None:
    """Two rules, two encoders or two runs on the same expressions: both metrics, the difference with a paired bootstrap
    over images, flips (expressions that one gets at IoU > 0.5 and the other does not), and mIoU by category, size,
    length, position and relation words of what is asked for. Nothing is computed again: `dvc repro` first.

    Examples: compare global_local cropping; compare vit:global rn50:global; compare global_local other/params.yaml
    """
    from pipeline.commands import compare as comparing
    from pipeline.commands.scored_runs import matched, sides_of

    project = opened(params, "score", to_errors=json)
    first, second = sides_of(project, a, b)
    for line in comparing.other_runs(first, second):
        print(line, file=sys.stderr if json else sys.stdout)
    usual = project.values.bootstrap
    drawn = (usual.resamples if resamples is None else resamples, usual.seed if seed is None else seed)
    both = matched(first.run, second.run, dataset, split)
    splits = comparing.comparison(first, second, both, *drawn)
    if json:
        print(comparing.as_json(first, second, splits, *drawn))
    else:
        comparing.print_comparison(first, second, splits)
    if pictures is not None:
        written = comparing.write_pictures(project, first, second, splits, pictures, most)
        print(f"{len(written)} pictures in {pictures}", file=sys.stderr if json else sys.stdout)


@app.command()
def methods(params: ParamsFile = DEFAULT_PARAMS, json: AsJson = False) -> None:
    """Every view, text, rule and encoder: what it needs, what it costs, and whether this profile can compute it."""
    from pipeline.commands import methods as listing

    entries = listing.methods(opened(params, to_errors=json))
    print(listing.as_json(entries)) if json else listing.print_methods(entries)


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="expression id, or ref id with --ref")],
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: Annotated[str | None, typer.Option(help="data set of the id, where several have it")] = None,
    ref: Annotated[bool, typer.Option("--ref", help="the number is a ref id")] = False,
    out: Annotated[Path, typer.Option(help="PNG file to write")] = Path("overlay.png"),
) -> None:
    """Draw an expression's image with its proposals, ground truth and chosen mask."""
    from pipeline.commands.show import draw_expression

    print(draw_expression(opened(params, "score"), number, dataset, ref, out))


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
