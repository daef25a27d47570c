"""``glimpse predict``: masks for phrases about pictures of one's own, by the stages themselves.

The folder of the results holds a profile, ``glimpse/params.yaml``, whose data set is the table of phrases: every command
takes it with ``--params``, and a second run computes only what is new. What the stages said is in ``glimpse/log.txt``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.arguments import checked
from pipeline.commands.pictures import Pictures, resolved
from pipeline.commands.scored_runs import Run
from pipeline.exports.predictions import Prediction, predictions
from pipeline.project import LoadedProject, load_project
from pipeline.registry import UP_TO_PAIR, stage_module
from pipeline.reruns import Reruns, stage_values
from pipeline.runner import Execution, run_stage
from stages.datasets.phrases import phrase_rows
from stages.page.overlay import encoded, overlay
from stages.scoring.rules.known import RULES
from stages.scoring.rules.registry import checked as checked_settings
from stages.scoring.table import Scoring
from store.errors import DataError, ParameterError, nearest
from store.images import read_image
from store.publish import write_file
from store.segmentation import areas, decode
from store.states import USABLE, State
from store.table import read_table

DATASET, SPLIT = "photos", "all"
ROOM = "glimpse"
"""Folder of the profile and its store in the folder of the results."""
_SHOWN = 10
_MIXED = ("global", "local")
"""The views that every pair table has."""


@dataclass(frozen=True)
class Asked:
    """What a prediction varies of the profile: all of it may be left out.

    Attributes:
        rule: "" for the profile's first. encoder: "" for its main one. alpha, beta: None for the profile's.
    """

    rule: str = ""
    encoder: str = ""
    alpha: float | None = None
    beta: float | None = None


def predict(
    project: LoadedProject,
    pictures: Pictures,
    rows: Sequence[Any],
    folder: Path,
    asked: Asked,
    execution: Execution,
    command: str = "",
) -> tuple[LoadedProject, list[Prediction]]:
    """Choose a mask for every phrase.

    Args:
        rows: of a table of phrases (``stages.datasets.phrases``). folder: of the results.
        command: what does this again, for the messages of other commands that are given the profile.

    Returns:
        The profile below ``folder``, and a prediction for each row, in order.

    Raises:
        ParameterError: no such rule or encoder, or the rule needs a view that the encoder does not offer.
        DataError: none of the pictures or phrases can be used. WeightsError: a model is missing.
    """
    found, reasons = resolved(rows, pictures)
    file = folder.absolute() / ROOM / "params.yaml"
    lines = "".join(f"{json.dumps(row)}\n" for row in found)
    write_file(file.parent / "annotations" / DATASET / "phrases.jsonl", lines.encode())
    values = _values(project, pictures.root, file, asked) | {"made_by": command}
    write_file(file, yaml.safe_dump(values, sort_keys=False).encode())
    own = load_project(file)
    stages, log = Reruns(own), StringIO()
    try:
        for stage in (*UP_TO_PAIR, "score"):
            params, paths = stage_values(own, stage, {})
            module = stage_module(stage)
            work = own.path(own.values.work)
            with redirect_stdout(log):
                run_stage(stage, params, module.Paths(**paths), work, execution, stages, own.values.encoder)
    except DataError as error:
        raise DataError(_typed_again(str(error))) from error
    finally:
        write_file(file.with_name("log.txt"), log.getvalue().encode("utf-8", "backslashreplace"))
    return own, _predictions(own, reasons)


def predict_files(
    project: LoadedProject, pictures: Pictures, table: Path, folder: Path, asked: Asked, device: str, overlays: bool
) -> None:
    """`predict` from a file of phrases into a folder, with what there is to say about it on the terminal.

    Raises as `predict` and `stages.datasets.phrases.phrase_rows`.
    """
    rows = phrase_rows(table)
    options = {"allow_lost": True} | ({"device": device} if device else {})
    command = _command(project, pictures, table, folder, asked)
    own, found = predict(project, pictures, rows, folder, asked, Execution.from_environment(options), command)
    content = write_results(own, found, folder, overlays)
    without = [each for each in found if each.proposal < 0]
    for each in without[:_SHOWN]:
        print(f"row {each.expression_id}, {each.image}, {each.sentence!r}: {said(each)}")
    if len(without) > _SHOWN:
        print(f"... and {len(without) - _SHOWN} more")
    named = {each.image for each in found}
    silent = sum(name not in named for name in pictures.names)
    more = f"; {silent:,} of {len(pictures.names):,} pictures have no phrase" if silent else ""
    print(f"{len(found) - len(without):,} masks for {len(content['predictions']):,} phrases{more}")
    print(f"{folder / 'predictions.json'}; other commands take --params {shlex.quote(str(own.file))}")


def _command(project: LoadedProject, pictures: Pictures, table: Path, folder: Path, asked: Asked) -> str:
    """`predict_files` as it is typed, from anywhere."""
    options = {"--rule": asked.rule, "--encoder": asked.encoder, "--alpha": asked.alpha, "--beta": asked.beta}
    given = [word for name, value in options.items() if value not in ("", None) for word in (name, str(value))]
    paths = [
        "--phrases",
        str(table.absolute()),
        "--out",
        str(folder.absolute()),
        "--params",
        str(project.file.absolute()),
    ]
    return shlex.join(["glimpse", "predict", str(pictures.root), *paths, *given])


def _values(project: LoadedProject, images: Path, file: Path, asked: Asked) -> dict[str, Any]:
    """The params of the profile ``file``: those of ``project``, cut down to what one rule of one encoder reads."""
    values, room = project.values, file.parent
    encoder = asked.encoder or values.encoder
    if encoder not in values.encoders:
        raise ParameterError(f"--encoder: no encoder {encoder!r}; {nearest(encoder, values.encoders)}")
    rule = RULES[asked.rule or values.rules.enabled[0]]
    given = {name: value for name, value in (("alpha", asked.alpha), ("beta", asked.beta)) if value is not None}
    main = [values.encoder, *(name for name in values.encoders if name != values.encoder)]
    scoring = values.score if encoder == values.encoder else values.score.for_encoder(encoder, main)
    scoring = checked(
        Scoring, {**scoring.model_dump(), "alpha_by_dataset": {}, "alpha_by_encoder": {}, **given}, "predict"
    )
    settings = values.rules.settings.get(rule.name, {})
    own_settings = checked_settings(rule.settings, settings, rule.name)
    needed, maps = {view for view, _ in rule.needs(scoring, own_settings)}, rule.maps(own_settings)
    views = [*_MIXED, *sorted({view.partition(".")[0] for view in needed} - {*_MIXED})]
    varied = {view.partition(".")[0] for view in needed if view not in (f"global.k{scoring.k}", "local")}
    ks = {scoring.k} | {int(match[1]) for view in needed if (match := re.search(r"\.k(\d+)$", view))}
    whole = values.model_dump(mode="json", exclude_none=True)
    seen = whole["embed_masks"]
    return whole | {
        "root": str(project.folder.absolute()),
        **{name: str(room / name) for name in ("data", "work")},
        "profile": str(file),
        **{name: str(room / f"{name}.json") for name in ("metrics", "summary")},
        "images": str(images),
        "index": {
            "annotations": str(room / "annotations"),
            "datasets": {DATASET: {"kind": "phrases", "splits": [SPLIT]}},
        },
        "encoder": encoder,
        "encoders": {encoder: whole["encoders"][encoder]},
        "embed_masks": seen
        | {
            "views": views,
            "masked_blocks": sorted(ks),
            "settings": {name: own for name, own in seen.get("settings", {}).items() if name in varied},
        },
        "heat": whole["heat"]
        | {"maps": maps, "settings": {name: own for name, own in whole["heat"]["settings"].items() if name in maps}},
        "variants": whole["variants"] | {"switches": [], "templates": [], "sources": []},
        "score": scoring.model_dump(mode="json"),
        "rules": {"enabled": [rule.name], "settings": {rule.name: settings} if settings else {}},
    }


def _typed_again(reason: str) -> str:
    """A reason of a stage whose remedy is this command."""
    reason = re.sub(
        r"(then )?run stage \w+ again: dvc repro .*?for the demo\)", r"\1give the same command again", reason
    )
    return re.sub(r"; are they in the folder that images .*? names\?", "", reason)


def _predictions(project: LoadedProject, reasons: Mapping[int, str]) -> list[Prediction]:
    """What a finished run answers, by row; ``reasons``: rows whose picture was not found, and why.

    A row in whose text or picture something is wrong has no mask, whatever a rule made of it.
    """
    run = Run("", project.table(""), project)
    found = []
    for each in predictions(run, run.scores.attrs["rules"][0], [(DATASET, SPLIT)]):
        usable = each.state in USABLE and each.proposal >= 0
        state = "" if usable else State.NO_PROPOSALS if each.state in USABLE else each.state
        status = "" if usable else reasons.get(each.expression_id) or _typed_again(each.status)
        score, margin = (each.score, each.margin) if usable else (None, None)
        proposal = each.proposal if usable else -1
        found.append(replace(each, state=str(state), status=status, proposal=proposal, score=score, margin=margin))
    return sorted(found, key=lambda each: each.expression_id)


def as_row(each: Prediction) -> dict[str, Any]:
    """A prediction as JSON: the mask as COCO's RLE, its box as x, y, width, height in pixels; null without one."""
    from pycocotools import mask as coco

    rle = {"size": [each.height, each.width], "counts": each.mask}
    there = each.proposal >= 0
    return {
        "row": each.expression_id,
        "image": each.image,
        "phrase": each.sentence,
        "noun_phrase": each.phrase,
        "segmentation": {**rle, "counts": each.mask.decode()} if there else None,
        "bbox": coco.toBbox(rle).tolist() if there else None,
        "area": int(areas([each.mask], each.height, each.width)[0]) if there else None,
        "score": each.score,
        "margin": each.margin,
        "proposals": each.proposals,
        "truncated": each.truncated,
        "state": each.state,
        "reason": each.status,
    }


def write_results(project: LoadedProject, found: Sequence[Prediction], folder: Path, pictures: bool) -> dict[str, Any]:
    """Write ``predictions.json``, a PNG of each mask (255 inside) and, with ``pictures``, an overlay of each phrase.

    Returns:
        The content of ``predictions.json``: what the predictions were made with, and a row for each phrase, with the paths of
        its files below ``folder``.
    """
    index = read_table(project.table("index.h5"), "index", ("image_name", "image_digest"))
    digests = dict(zip(index["image_name"], index["image_digest"], strict=True))
    rows: dict[int, dict[str, Any]] = {}
    for name, group in groupby(sorted(found, key=lambda p: (p.image, p.expression_id)), key=lambda p: p.image):
        picture = None
        for each in group:
            row, files = as_row(each), dict[str, str | None](mask=None, picture=None)
            if each.proposal >= 0:
                stem, inside = f"{each.expression_id:04d}_{Path(name).stem}.png", pixels(each)
                files["mask"] = mask = f"masks/{stem}"
                write_file(folder / mask, mask_file(inside))
                if pictures:
                    picture = picture or read_image(project.path(project.values.images), name, digests[name])
                    files["picture"] = path = f"pictures/{stem}"
                    drawn = overlay(picture, choice=inside, caption=caption(each), width=max(640, each.width))
                    write_file(folder / path, encoded(drawn, ".png"))
            rows[each.expression_id] = row | files
    scores = read_table(project.table("scores.h5"), "scores", ("score",))
    content = {
        "rule": scores.attrs["rules"][0],
        "encoder": scores.attrs["encoders"][project.values.encoder],
        "images": str(project.values.images),
        "predictions": [rows[number] for number in sorted(rows)],
    }
    write_file(folder / "predictions.json", (json.dumps(content, indent=1) + "\n").encode())
    return content


def pixels(each: Prediction) -> NDArray[np.bool_]:
    """The chosen mask, bool (H, W)."""
    inside: NDArray[np.bool_] = decode([each.mask], each.height, each.width)[0]
    return inside


def mask_file(mask: NDArray[np.bool_]) -> bytes:
    """A mask bool (H, W) as a PNG file, 255 inside and 0 outside."""
    from PIL import Image

    return encoded(Image.fromarray(mask.astype(np.uint8) * 255), ".png")


def caption(prediction: Prediction) -> list[str]:
    """What stands under a picture: the phrase, and what was found for it."""
    return [prediction.sentence, said(prediction)]


def said(prediction: Prediction) -> str:
    """A prediction in a line, without its phrase."""
    if prediction.proposal < 0:
        return f"no mask: {prediction.status or prediction.state}"
    margin = "the only one" if prediction.margin is None else f"{prediction.margin:.2f} above the next"
    cut = "; the phrase is cut: it is longer than the encoder reads" if prediction.truncated else ""
    return (
        f"1 of {prediction.proposals} proposals; noun phrase {prediction.phrase!r}; score {prediction.score:.2f}, "
        f"{margin}{cut}"
    )
