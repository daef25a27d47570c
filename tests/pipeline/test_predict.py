"""`glimpse predict` and `glimpse segment`: own pictures and phrases, held to one image through the networks themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from demo.refshapes import write_benchmark
from pipeline.cli import app
from pipeline.commands.pictures import Pictures, find_pictures
from pipeline.commands.predict import Asked, as_row, predict, predict_files
from pipeline.commands.segment import segment_file
from pipeline.commands.single_image import Segmentation, segment
from pipeline.exports.predictions import Prediction
from pipeline.project import LoadedProject, load_project
from pipeline.runner import Execution
from stages.clip.weights import load_clip
from stages.proposals.freesolo import FreeSolo
from stages.text.spacy_model import load_spacy
from stages.visual.encoder import MaskedClip
from store.document import read_document
from store.errors import DataError, ParameterError
from tests.helpers.profile import demo_values

STAR, CIRCLE = "the red star", "the striped circle on the left"
ROWS = [
    {"image": "first.png", "phrase": STAR},
    {"image": "deep/second", "phrase": CIRCLE},
    {"image": "broken.png", "phrase": STAR},
    {"image": "gone.png", "phrase": STAR},
    {"image": "first", "phrase": " "},
    {"image": "photos/first.png", "phrase": CIRCLE + " and more" * 80},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> LoadedProject:
    """The demo's profile with a dozen proposals an image; its data sets are not read."""
    folder = tmp_path_factory.mktemp("profile")
    values = demo_values(folder)
    values["propose"]["max_proposals"] = 12
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return load_project(folder / "params.yaml")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, the second stored on its side with EXIF that says so, and a file that is none."""
    made, folder = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("own") / "photos"
    write_benchmark(made, images_per_split=1)
    first, second = sorted((made / "images").glob("*.png"))[:2]
    (folder / "deep").mkdir(parents=True)
    shutil.copy(first, folder / "first.png")
    with Image.open(second) as upright:
        stored = upright.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(folder / "deep/second.png", exif=exif)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a picture")
    (folder.parent / "upright.png").write_bytes(second.read_bytes())
    return folder


@pytest.fixture(scope="module")
def predicted(
    project: LoadedProject, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("results")
    table = folder / "rows.jsonl"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    predict_files(project, find_pictures([str(photos)]), table, folder, Asked(), "", True)
    return folder, json.loads((folder / "predictions.json").read_text())["predictions"]


def plainly(project: LoadedProject, file: Path, phrase: str) -> Segmentation:
    """One image through the networks, without a store."""
    values, encoder = project.values, project.values.main_encoder
    net = FreeSolo.from_file(project.path(values.propose.input), box=values.propose.box, **values.propose.used())
    clip = MaskedClip(
        *load_clip(str(project.path(encoder.model)), project.path(encoder.weights)), **values.embed_masks.seen()
    )
    with Image.open(file) as picture:
        return segment(
            picture.convert("RGB"), phrase, net, clip, load_spacy(values.parse.spacy_model), scoring=values.score
        )


def test_predictions_equal_the_networks(
    project: LoadedProject, photos: Path, predicted: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, rows = predicted
    for row, file in ((rows[0], photos / "first.png"), (rows[1], photos.parent / "upright.png")):
        plain = plainly(project, file, row["phrase"])
        assert (row["noun_phrase"], row["proposals"]) == (plain.noun_phrase, len(plain.scores))
        np.testing.assert_array_equal(coco.decode(row["segmentation"]), plain.proposals.masks[plain.chosen])
        ranked = np.sort(plain.scores)[::-1]
        assert row["score"] == pytest.approx(ranked[0], abs=2e-4)
        assert row["margin"] == pytest.approx(ranked[0] - ranked[1], abs=4e-4)
        with Image.open(folder / row["mask"]) as mask, Image.open(file) as picture:
            np.testing.assert_array_equal(np.asarray(mask) == 255, plain.proposals.masks[plain.chosen])
            assert mask.size == picture.size
        assert (row["area"], row["state"], row["reason"]) == (plain.proposals.masks[plain.chosen].sum(), "", "")
        x, y, width, height = row["bbox"]
        ys, xs = np.nonzero(plain.proposals.masks[plain.chosen])
        assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert (folder / row["picture"]).stat().st_size > 1000


def test_every_row_has_a_mask_or_a_reason(predicted: tuple[Path, list[dict[str, Any]]]) -> None:
    _, rows = predicted
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["phrase"] for row in rows] == [row["phrase"] for row in ROWS]
    assert [row["image"] for row in rows[:2]] == ["first.png", "deep/second.png"]
    broken, gone, blank, long = rows[2:]
    assert "not an image" in broken["reason"]
    assert "give the same command again" in broken["reason"]
    assert "no picture gone.png in" in gone["reason"]
    assert blank["state"] == "faulty sentence"
    for row in (broken, gone, blank):
        assert row["state"]
        assert (row["segmentation"], row["score"], row["mask"], row["picture"]) == (None, None, None, None)
    assert long["truncated"]
    assert long["image"] == "first.png"
    assert not any("dvc repro" in row["reason"] for row in rows)


def test_more_phrases_cost_only_themselves(
    project: LoadedProject, photos: Path, predicted: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(predicted[0], folder)
    rows = [*ROWS[:2], {"image": "first.png", "phrase": "the blue square"}]
    own, predictions = predict(
        project, find_pictures([str(photos)]), rows, folder, Asked(), Execution.from_environment({"allow_lost": True})
    )
    records = own.path(own.values.work, "records")
    for stage, what in (("propose", "images"), ("embed_masks@vit", "images"), ("embed_text@vit", "strings")):
        record = read_document(records / f"{stage}.json", stage)
        assert record["computed"].get(what, 0) == (1 if what == "strings" else 0), stage
        assert record["reused"][what] > 0, stage
    assert [as_row(each)["segmentation"] for each in predictions[:2]] == [
        row["segmentation"] for row in predicted[1][:2]
    ]


def test_other_commands_take_the_results_profile(
    project: LoadedProject, photos: Path, predicted: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    params = str(predicted[0] / "glimpse/params.yaml")
    shown = CliRunner().invoke(app, ["show", "1", "--params", params, "--out", str(tmp_path / "o.png")])
    assert shown.exit_code == 0, shown.output
    assert "no ground truth" in shown.output
    assert "IoU" not in shown.output
    metrics = CliRunner().invoke(app, ["metrics", "--params", params])
    assert "not annotated 3" in " ".join(metrics.output.split())
    command = (
        f"glimpse predict {photos} --phrases {predicted[0] / 'rows.jsonl'} --out {predicted[0]} --params {project.file}"
    )
    assert f"run: {command}" in metrics.output, "no dvc.yaml makes these outputs"


def test_another_rule_and_alpha(
    project: LoadedProject, photos: Path, predicted: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(predicted[0], tmp_path, dirs_exist_ok=True)  # its parts serve again
    execution = Execution.from_environment()
    rows = [{"image": "first.png", "phrase": STAR}]
    both: list[Prediction] = []
    for asked in (Asked("cropping"), Asked(alpha=0.0, beta=1.0)):
        _, (one,) = predict(project, find_pictures([str(photos / "first.png")]), rows, tmp_path, asked, execution)
        both.append(one)
    assert both[0].score == pytest.approx(both[1].score, abs=1e-3)
    with pytest.raises(ParameterError, match=r"croping.*did you mean 'cropping'\?"):
        predict(project, find_pictures([str(photos)]), rows, tmp_path, Asked("croping"), execution)
    with pytest.raises(ParameterError, match="--encoder: no encoder 'resnet'"):
        predict(project, find_pictures([str(photos)]), rows, tmp_path, Asked(encoder="resnet"), execution)


def test_nothing_usable_is_an_error_that_names_this_command(
    project: LoadedProject, photos: Path, tmp_path: Path
) -> None:
    pictures = find_pictures([str(photos / "broken.png")])
    with pytest.raises(DataError, match=r"none of 1 images .*give the same command again$"):
        predict(
            project,
            pictures,
            [{"image": "broken.png", "phrase": STAR}],
            tmp_path,
            Asked(),
            Execution.from_environment(),
        )


def test_segment_takes_phrases_and_writes_what_names_say(
    project: LoadedProject, photos: Path, predicted: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out, mask = tmp_path / "o.jpg", tmp_path / "m.png"
    rows = segment_file(project, photos / "deep/second.png", [CIRCLE, "  "], out, mask)
    assert rows[0]["segmentation"] == predicted[1][1]["segmentation"]
    assert "no mask: phrase: blank" in rows[1]["text"]
    with Image.open(tmp_path / "o-1.jpg") as picture, Image.open(tmp_path / "m-1.png") as inside:
        assert picture.format == "JPEG"
        np.testing.assert_array_equal(np.asarray(inside) // 255, coco.decode(rows[0]["segmentation"]))
    assert not (tmp_path / "m-2.png").exists()
    assert (tmp_path / "o-2.jpg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", STAR], r"nowhere\.png: expected a picture, found no such file.*glimpse predict"),
        (["{photos}/first.png", STAR, "--out", "o.tiff"], r"o\.tiff: expected a file name that ends in \.png, \.jpg"),
        (["{photos}/first.png", STAR, "--mask", "m.jpg"], r"m\.jpg: expected a file name that ends in \.png"),
        (["{photos}/first.png", STAR, "--device", "tpu"], "expected a torch device of this machine"),
    ],
)
def test_segment_says_what_is_wrong(project: LoadedProject, photos: Path, arguments: list[str], message: str) -> None:
    words = ["segment", *(word.format(photos=photos) for word in arguments), "--params", str(project.file)]
    with pytest.raises(ParameterError, match=message):
        CliRunner().invoke(app, words, catch_exceptions=False)


NAMES = ("a.png", "b/a.png", "b/c.jpg", "b/d/e.png")


@pytest.mark.parametrize(
    ("call", "name"),
    [("a.png", "a.png"), ("c", "b/c.jpg"), ("d/e", "b/d/e.png"), ("/x/photos/b/c.jpg", "b/c.jpg"), ("./b/a.png", "b/a.png"),
     ("/root/b/d/e.png", "b/d/e.png")],
)  # fmt: skip
def test_what_a_table_may_call_a_picture(call: str, name: str) -> None:
    assert Pictures(Path("/root"), NAMES).called(call) == name


def test_a_name_of_several_pictures_or_none() -> None:
    pictures = Pictures(Path("/root"), NAMES)
    assert pictures.called("a") == "a.png", "the whole path but for its extension"
    with pytest.raises(ParameterError, match=r"a may be any of b/a\.png, c/a\.jpg; write more"):
        Pictures(Path("/root"), ("b/a.png", "c/a.jpg")).called("a")
    with pytest.raises(ParameterError, match=r"no picture z/c\.jpg in /root \(4 pictures\)"):
        pictures.called("z/c.jpg")


@given(names=st.sets(st.from_regex(r"([ab]/){0,2}[ab]\.(png|jpg)", fullmatch=True), min_size=1))
@settings(deadline=None)
def test_every_picture_answers_to_its_own_path(names: set[str]) -> None:
    pictures = Pictures(Path("/root"), tuple(sorted(names)))
    for name in names:
        assert pictures.called(name) == pictures.called(f"/root/{name}") == name


def test_folders_files_and_patterns(photos: Path) -> None:
    assert find_pictures([str(photos)]).names == ("broken.png", "deep/second.png", "first.png")
    assert find_pictures([f"{photos}/*.png"]).names == ("broken.png", "first.png")
    some = find_pictures([str(photos / "first.png"), str(photos / "deep")])
    assert (some.root, some.names) == (photos, ("first.png", "deep/second.png"))
    with pytest.raises(ParameterError, match="found nothing; correct the path"):
        find_pictures([str(photos / "*.gif")])
    (photos.parent / "empty").mkdir()
    with pytest.raises(ParameterError, match="expected pictures, found none"):
        find_pictures([str(photos.parent / "empty")])
