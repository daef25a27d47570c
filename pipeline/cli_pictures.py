"""The commands about your own pictures: ``glimpse predict`` and ``glimpse segment`` (docs/predict.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli_shared import AsJson, ParamsFile, opened
from pipeline.registry import DEFAULT_PARAMS

RuleName = Annotated[str, typer.Option("--rule", help="the profile's first by default; see glimpse methods")]
EncoderName = Annotated[str, typer.Option("--encoder", help="of the profile's encoders; the main one by default")]
Alpha = Annotated[float | None, typer.Option(help="weight of the global visual feature")]
Beta = Annotated[float | None, typer.Option(help="weight of the sentence feature")]
Device = Annotated[str, typer.Option("--device", help="torch device; default: GLIMPSE_DEVICE, or the CPU")]


def segment(
    image: Path,
    phrases: Annotated[list[str], typer.Argument(help="one or more; quote each")],
    params: ParamsFile = DEFAULT_PARAMS,
    out: Annotated[Path, typer.Option(help="overlay to write: .png, .jpg or .webp")] = Path("overlay.png"),
    mask: Annotated[Path | None, typer.Option(help="PNG file of the chosen mask to write, 255 inside")] = None,
    rule: RuleName = "",
    encoder: EncoderName = "",
    alpha: Alpha = None,
    beta: Beta = None,
    device: Device = "",
    as_json: AsJson = False,
) -> None:
    """Segment one picture by each phrase with the configured weights; write an overlay. Many pictures: glimpse predict."""
    from pipeline.commands.predict import Asked
    from pipeline.commands.segment import print_segments, segment_file
    from pipeline.runner import Execution

    project = opened(params, to_errors=as_json)
    execution = Execution.from_environment({"device": device} if device else None)
    results = segment_file(project, image, phrases, out, mask, Asked(rule, encoder, alpha, beta), execution)
    print(json.dumps(results, indent=1)) if as_json else print_segments(project, results)


def predict(
    photos: Annotated[list[str], typer.Argument(help="folders, files or patterns in quotes")],
    phrases: Annotated[Path, typer.Option(help="table with columns image and phrase: .csv, .tsv, .jsonl or .json")],
    out: Annotated[Path, typer.Option(help="folder for predictions.json, masks, pictures and the store behind them")],
    params: ParamsFile = DEFAULT_PARAMS,
    rule: RuleName = "",
    encoder: EncoderName = "",
    alpha: Alpha = None,
    beta: Beta = None,
    device: Device = "",
    pictures: Annotated[bool, typer.Option(help="draw an overlay for each phrase")] = True,
) -> None:
    """Masks for phrases about your own pictures: a row for each phrase, with score, margin and reason.

    The folder also holds a profile, OUT/glimpse/params.yaml, that every other command takes with --params. The same command
    again computes only what is new.
    """
    from pipeline.commands.pictures import find_pictures
    from pipeline.commands.predict import Asked, predict_files

    asked = Asked(rule, encoder, alpha, beta)
    predict_files(opened(params), find_pictures(photos), phrases, out, asked, device, pictures)
