"""The true sizes on a CPU (make smoke): R101 FreeSOLO, ViT-B/32, RN50, SigLIP of random weights, real pictures, all stages.

Structure-faithful data of two photographs, the root dvc.yaml and params.yaml, the small spaCy model. What is checked: every
stage runs, nothing is lost on the way, the numbers are finite, and no process takes more than 8 GB.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from safetensors.torch import save_file

from pipeline.golden.folder import Folder
from pipeline.registry import STAGES
from stages.clip.weights import load_clip
from stages.visual.encoder import MaskedClip
from store.table import read_table
from store.vectors import Vectors
from tests.helpers.documents import data_sets
from tests.helpers.profile import ROOT
from tests.helpers.refer_generator import write_phrasecut, write_refer
from tests.helpers.timm_files import write_tokenizer

pytestmark = pytest.mark.smoke
SEED = 13
MEMORY = 8_000_000_000


def freesolo_weights(file: Path) -> None:
    """A checkpoint of the released form and architecture with random values whose category bias lets proposals exist."""
    shapes = json.loads((ROOT / "tests/golden/freesolo_shapes.json").read_text())
    rebuilt = Folder(ROOT / "tests/golden").weights
    state = rebuilt.fill(shapes, SEED)
    torch.save({"model": state, "__author__": "random", "iteration": 0}, file)


def clip_weights(architecture: str, file: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, pretrained=None)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, file)


VIT = {"model": "models/ViT-B-32-quickgelu.json", "weights": "data/weights/ViT-B-32.pt.safetensors"}


class Project:
    """The full benchmark's profile over two photographs, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pipeline", "stages", "store", "models", "maps", "masks", "extensions", ".dvc"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "cache", "tmp"))
        for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, folder / name)
        picture = Image.open(ROOT / "tests/golden/images/astronaut.png").convert("RGB")
        pictures = [picture, ImageOps.mirror(picture).resize((640, 480))]
        write_refer(folder / "data", pictures, seed=3)
        write_phrasecut(folder / "data", pictures, seed=4)
        weights = folder / "data/weights"
        weights.mkdir()
        freesolo_weights(weights / "FreeSOLO_R101_30k_pl.pth")
        clip_weights("ViT-B-32-quickgelu", weights / "ViT-B-32.pt.safetensors")
        self.set(parse={"spacy_model": "en_core_web_sm"}, encoders={"vit_b32": VIT})
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)

    def set(self, **sections: dict[str, Any]) -> None:
        file = self.folder / "params.yaml"
        values = yaml.safe_load(file.read_text())
        for section, change in sections.items():
            values[section] |= change
        file.write_text(yaml.safe_dump(values, sort_keys=False))

    def repro(self) -> list[str]:
        """Names of the stages that ran."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"Running stage '(\w+)(?:@\w+)?'", done.stdout)

    @property
    def metrics(self) -> dict[str, Any]:
        return data_sets(self.folder / "metrics.json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("true-size"))


@pytest.mark.timeout(900)
def test_the_full_benchmarks_profile_runs(project: Project) -> None:
    assert sorted(project.repro()) == sorted(["doctor", *STAGES])
    data = project.folder / "data/full"
    index, proposals = read_table(data / "index.h5", "index"), read_table(data / "proposals.h5", "proposals")
    assert (len(index["image_name"]), index["image_status"]) == (4, [""] * 4), "two of COCO, two of PhraseCut"
    assert (np.diff(proposals["image_offsets"]) >= 5).all(), "every decoding step had work"
    features = Vectors(data / "mask_features/vit_b32", "mask_features")
    for kind in ("view.local", "view.global.k3"):
        vectors = features.rows(kind)
        assert vectors.shape == (len(proposals["score"]), 512)
        assert np.isfinite(vectors).all()
        assert (np.linalg.norm(vectors, axis=1) > 0).all()
    groups = {(dataset, split) for dataset, splits in project.metrics.items() for split in splits}
    datasets = yaml.safe_load((ROOT / "params.yaml").read_text())["index"]["datasets"]
    assert groups == {(name, split) for name, choice in datasets.items() for split in choice["splits"]}
    for splits in project.metrics.values():
        for rules in splits.values():
            counts = rules["counts"]
            assert rules["global_local"]["n"] == counts["expressions"] - counts["not_evaluated"] > 0
            assert 0 <= rules["global_local"]["miou"] <= rules["upper_bound"]["miou"] <= 1
    page = (data / "report.html").read_text()
    assert "Against the reported numbers" in page
    differences = json.loads((data / "ablations.json").read_text())["differences"]
    assert {row["name"] for row in differences} == {
        "as configured", "empty", "polygon_overlap", "box", "fill", "antialias", "preprocess", "release"
    }  # fmt: skip


@pytest.mark.timeout(900)
def test_rn50_stands_beside_the_vit(project: Project) -> None:
    clip_weights("RN50-quickgelu", project.folder / "data/weights/RN50.pt.safetensors")
    project.set(encoders={"rn50": {"model": "models/RN50-quickgelu.json", "weights": "data/weights/RN50.pt.safetensors"}},
                variants={"switches": ["box"]})  # fmt: skip
    ran = project.repro()
    assert {"embed_masks", "embed_text", "pair", "score", "report"} <= set(ran)
    assert [ran.count(stage) for stage in ("embed_masks", "embed_text", "pair")] == [1, 1, 1], "the ViT's stay"
    assert project.metrics["rn50"]["refcoco"].keys() == project.metrics["refcoco"].keys()
    assert not {"index", "propose", "parse", "overlap"} & set(ran)
    pairs = read_table(project.folder / "data/full/pairs/rn50.h5", "pairs")
    assert pairs.attrs["score_rule"] == "unnormalised"
    assert np.isfinite(pairs["dot.global.k3*sentence"]).all()


@pytest.mark.timeout(300)
def test_own_pictures_at_the_true_size(project: Project, tmp_path: Path) -> None:
    """`glimpse predict`: two photographs, three phrases each, the models loaded once."""
    picture = Image.open(ROOT / "tests/golden/images/astronaut.png").convert("RGB")
    picture.save(tmp_path / "one.png")
    ImageOps.mirror(picture).save(tmp_path / "two.png")
    phrases = ("the woman", "the flag on the left", "a white helmet")
    rows = [f"{name}.png,{phrase}\n" for name in ("one", "two") for phrase in phrases]
    (tmp_path / "phrases.csv").write_text("image,phrase\n" + "".join(rows))
    words = ["predict", str(tmp_path), "--phrases", str(tmp_path / "phrases.csv"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert [row["phrase"] for row in found] == [*phrases, *phrases]
    for row in found:
        mask = np.array(Image.open(tmp_path / "out" / row["mask"]))
        assert mask.shape == (picture.height, picture.width)
        assert mask.any()
        assert np.isfinite(row["score"])
        assert row["margin"] >= 0


def test_no_process_took_more_memory_than_allowed() -> None:
    used = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert 1e8 < used <= MEMORY, f"{used:,} bytes"


@pytest.mark.timeout(300)
def test_siglip_at_its_true_size(tmp_path: Path) -> None:
    """ViT-B-16-SigLIP of random weights by its name, a tokenizer of the test's own: masks of two pictures, and texts."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    model = open_clip.CustomTextCLIP(**{key: value for key, value in config.items() if key != "custom_text"})
    save_file(
        {name: value.half().contiguous() for name, value in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    del model
    write_tokenizer(tmp_path, 32_000)
    loaded, tokenizer = load_clip("ViT-B-16-SigLIP", tmp_path)
    clip = MaskedClip(loaded, tokenizer, "clip")
    assert clip.pixels.mean == (0.5, 0.5, 0.5)
    picture = Image.open(ROOT / "tests/golden/images/astronaut.png").convert("RGB")
    for image in (picture, ImageOps.mirror(picture).resize((640, 480))):
        masks = np.zeros((3, image.height, image.width), np.bool_)
        masks[0, 50:300, 100:400] = masks[1, 200:, :200] = masks[2] = True
        prepared = clip.prepare(image)
        whole = clip.tower.encode(clip.pixels.global_view(prepared, clip.tower.input_size)).numpy()
        for view in ("global", "local", "text_region"):
            vectors = clip.view_features(view, prepared, masks)
            assert vectors.shape == (3, 768)
            assert np.isfinite(vectors).all()
            assert np.linalg.norm(vectors[0] - vectors[1]) > 0
            if view == "global":
                np.testing.assert_allclose(vectors[2], whole[0], rtol=1e-3, atol=1e-4)
    texts = ["the man in the red coat", "a dog"]
    vectors = clip.text_features(texts)
    with torch.inference_mode():
        expected = loaded.encode_text(tokenizer(texts)).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)
    assert vectors.shape == (2, 768)
    used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert used < 6_000_000_000, f"{used:,} bytes"
