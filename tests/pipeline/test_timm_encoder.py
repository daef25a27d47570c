"""An encoder of timm with a tokenizer of its own beside the demo's ViT: all stages, what can be computed, preflight."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from demo.refshapes import write_benchmark
from pipeline.cli import app
from pipeline.project import load_project
from pipeline.setup.preflight import needs
from stages.clip.config import encoder_identity
from stages.clip.weights import load_clip
from stages.scoring.metrics import metrics_by_encoder
from store.document import read_document
from store.errors import WeightsError
from store.table import read_table
from store.vectors import Vectors
from tests.helpers.profile import ROOT, profile_at, run_stages
from tests.helpers.timm_files import TEXT, timm_model, vision, write_tokenizer

Values = dict[str, Any]
VISION = vision("test_vit3", 64, "map", "none")
RULES = ["global_local", "global", "cropping"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Values:
    """Two encoders, ``vit`` the main one, over a few scenes."""
    folder = tmp_path_factory.mktemp("timm")
    write_benchmark(folder / "refer", images_per_split=1)
    values = profile_at(folder, folder / "refer")
    models = folder / "models"
    models.mkdir()
    shutil.copy(ROOT / "demo/models/refshapes_clip.json", models)
    config = {"embed_dim": 96, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT, "init_logit_bias": -10}
    (models / "siglip.json").write_text(json.dumps(config))
    write_tokenizer(models / "tokenizer")
    state = timm_model(VISION, 96).state_dict()
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "siglip.safetensors")
    values["models"] = str(models)
    values["encoders"]["vit"]["model"] = str(models / "refshapes_clip.json")
    values["encoders"]["siglip"] = {"model": str(models / "siglip.json"), "weights": str(folder / "siglip.safetensors")}
    values["embed_masks"] |= {"views": ["global", "local", "text_region", "gem"], "masked_blocks": [1, 3]}
    values["rules"] = {"enabled": [*RULES, "text_region", "gem"]}
    values["score"]["alpha_by_encoder"] = {}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return values


def test_every_stage_to_metrics(profile: Values) -> None:
    run_stages(profile)
    data = Path(profile["data"])
    features, texts = (
        Vectors(data / "mask_features/siglip", "mask_features"),
        Vectors(data / "text_features/siglip", "text_features"),
    )
    identity = features.attrs["encoder"]
    assert (identity["backbone"], identity["architecture"]) == ("timm", "siglip")
    assert {"tokenizer", "tokenizer_config"} <= set(identity)
    assert texts.attrs["encoder"] == identity
    for view in ("global.k1", "global.k3", "local", "text_region"):
        vectors = features.rows(f"view.{view}")
        assert vectors.shape[1] == 96
        assert np.isfinite(vectors).all()
        assert (np.linalg.norm(vectors, axis=1) > 0).all()
    loaded: Any
    loaded, tokenizer = load_clip(
        profile["encoders"]["siglip"]["model"], Path(profile["encoders"]["siglip"]["weights"])
    )
    strings = texts.column("string")
    expected = loaded.encode_text(tokenizer(strings)).numpy()
    np.testing.assert_allclose(texts.rows("feature"), expected, rtol=1e-4, atol=1e-5)
    pairs = read_table(data / "pairs/siglip.h5", "pairs")
    assert pairs.attrs["score_rule"] == "cosine"
    metrics = metrics_by_encoder(read_document(Path(profile["metrics"]), "score"))
    assert set(metrics) == {"", "siglip"}
    for dataset, splits in metrics[""].items():
        for split, of_vit in splits.items():
            of_siglip = metrics["siglip"][dataset][split]
            assert set(of_vit) - set(of_siglip) >= {"gem"}, "a view of kind vit alone"
            assert of_siglip["text_region"]["n"] == of_siglip["global_local"]["n"] == of_vit["global_local"]["n"] > 0
    chosen = read_table(data / "scores.h5", "scores")
    assert "chosen.siglip:global_local" in chosen.columns


def test_methods_and_preflight_know_it(profile: Values) -> None:
    done = CliRunner().invoke(app, ["methods", "--json", "--params", profile["profile"]], catch_exceptions=False)
    entries = {(entry["kind"], entry["name"]): entry for entry in json.loads(done.stdout)}
    assert entries["backbone", "timm"]["available"]
    assert entries["encoder", "siglip"]["available"]
    assert entries["view", "text_region"] | {"cost": ""} == {
        "name": "text_region", "kind": "view", "needs": ["vit", "timm"], "cost": "", "available": True, "reason": ""
    }  # fmt: skip
    project = load_project(Path(profile["profile"]))
    said = [need for need in needs(project) if "tokenizer of encoder" in need.what]
    assert [(Path(need.where).name, need.what, need.remedy) for need in said] == [
        ("tokenizer.json", "tokenizer of encoder siglip", "")
    ]


def test_a_tokenizer_that_is_not_there(profile: Values) -> None:
    folder, encoder = Path(profile["models"], "tokenizer"), profile["encoders"]["siglip"]
    folder.rename(folder.with_name("elsewhere"))
    try:
        (said,) = [need for need in needs(load_project(Path(profile["profile"]))) if "its tokenizer" in need.what]
        assert "models/tokenizer/tokenizer.json" in said.what
        assert said.remedy
        with pytest.raises(WeightsError, match=r"expected tokenizer\.json of its tokenizer 'tokenizer', found none"):
            encoder_identity(encoder["model"], Path(encoder["weights"]), "float32")  # with it every stage begins
    finally:
        folder.with_name("elsewhere").rename(folder)
