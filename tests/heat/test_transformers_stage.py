"""Maps of models of transformers from the stage to metrics and page; what their keys cover; what is said before a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPSegForImageSegmentation

from demo.refshapes import write_benchmark
from pipeline.commands.methods import methods
from pipeline.project import load_project
from pipeline.setup.estimates import Counts, estimates
from pipeline.setup.preflight import check, needs
from stages.heat_maps import model_folder
from stages.heat_maps.table import map_at
from store.errors import ParameterError, WeightsError
from store.segmentation import decode
from store.table import Table, read_table
from tests.helpers import transformers_files
from tests.helpers.documents import data_sets
from tests.helpers.profile import profile_at, run_stages

Values = dict[str, Any]
KINDS = ("clip_seg", "group_vit")
SETTINGS = {"clip_seg": {"model": "seg", "block": 8}, "group_vit": {"model": "groups"}}


@pytest.fixture(scope="module")
def refer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refshapes") / "refer"
    write_benchmark(folder, images_per_split=1)
    return folder


def values_at(folder: Path, refer: Path) -> Values:
    values = profile_at(folder, refer)
    values["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["val", "testA"]}}
    values["propose"] |= {"source": "instances"}
    values["heat"] = {"maps": list(KINDS), "settings": SETTINGS, "folder": f"{folder}/models"}
    enabled = ["global_local", *KINDS, "heat"]
    values["rules"] = {"enabled": enabled, "settings": {"heat": {"map": "clip_seg"}}}
    values["bootstrap"]["resamples"] = 5
    return values


@pytest.fixture(scope="module")
def finished(refer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Values, dict[str, Any]]:
    values = values_at(tmp_path_factory.mktemp("finished"), refer)
    folder = Path(values["heat"]["folder"])
    transformers_files.clip_seg(folder / "seg")
    transformers_files.group_vit(folder / "groups")
    return values, run_stages(values)


@pytest.fixture
def profile(finished: tuple[Values, Any], tmp_path: Path, refer: Path) -> Values:
    """A copy of the finished profile."""
    for name in ("data", "work", "models"):
        shutil.copytree(Path(finished[0]["profile"]).parent / name, tmp_path / name)
    return values_at(tmp_path, refer)


def table(values: Values, name: str) -> Table:
    file = f"{name}/vit.h5" if name in ("pairs", "heat_maps") else f"{name}.h5"
    return read_table(Path(values["data"], file), name)


def released(values: Values, image: Path, sentence: str) -> torch.Tensor:
    """CLIPSeg's map (1, 1, 64, 64) as transformers' documentation makes it."""
    folder = Path(values["heat"]["folder"], "seg")
    with transformers_files.quiet():
        net = CLIPSegForImageSegmentation.from_pretrained(folder, local_files_only=True).eval()
    pixels = transformers_files.ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)
    processor = transformers_files.CLIPSegProcessor(pixels, transformers_files.tokenizer())
    with Image.open(image) as opened, torch.no_grad():
        given = processor(text=[sentence], images=[opened.convert("RGB")], truncation=True, max_length=16)
        logits = net(**given.convert_to_tensors("pt")).logits
    return logits.reshape(1, 1, *logits.shape[-2:]).sigmoid()


def test_maps_run_to_a_rules_numbers(finished: tuple[Values, dict[str, Any]]) -> None:
    """CLIPSeg by transformers, means of squares, upsampled, averaged inside each mask, the highest is chosen and counted."""
    values, _ = finished
    index, parse, proposals = (table(values, name) for name in ("index", "parse", "proposals"))
    pairs, scores, maps = (table(values, name) for name in ("pairs", "scores", "heat_maps"))
    ious: dict[int, list[float]] = {}
    for expression, ref in enumerate(index["expression_ref"].tolist()):
        image = int(index["ref_image"][ref])
        name, size = index["image_name"][image], tuple(index["image_size"][image].tolist())
        whole = released(values, Path(values["images"], name), parse["sentence"][expression])
        heat = torch.nn.functional.avg_pool2d(whole, 8)
        kept = map_at(maps.columns, "clip_seg", int(maps["expression_phrase"][expression]))
        assert kept is not None
        np.testing.assert_allclose(kept, heat[0, 0].numpy(), rtol=1e-4, atol=1e-6)
        up = torch.nn.functional.interpolate(heat, size, mode="bilinear")[0, 0].numpy()
        rows = range(*proposals["image_offsets"][image : image + 2].tolist())
        masks = decode([proposals["mask"][row] for row in rows], *size)
        means = [up[mask].mean() for mask in masks]
        own = slice(*pairs["expression_offsets"][expression : expression + 2].tolist())
        np.testing.assert_allclose(pairs["heat.clip_seg"][own], means, atol=1e-5)
        best = int(np.argmax(means))
        assert scores["chosen.clip_seg"][expression] == scores["chosen.heat"][expression] == best
        truth = decode([index["ref_mask"][ref]], *size)[0]
        iou = (truth & masks[best]).sum() / (truth | masks[best]).sum()
        ious.setdefault(int(index["ref_group"][ref]), []).append(iou)
    metrics = data_sets(Path(values["metrics"]))
    for group, (dataset, split) in enumerate(index.attrs["groups"]):
        found = metrics[dataset][split]
        assert found["clip_seg"]["miou"] == found["heat"]["miou"] == pytest.approx(np.mean(ious[group]), abs=1e-9)
        assert 0 <= found["group_vit"]["miou"] <= 1
        assert found["counts"]["lost_clip_seg_maps"] == found["counts"]["lost_group_vit_maps"] == 0
    assert set(maps["state.group_vit"]) == {""}
    assert "encoder" not in maps.attrs


def test_what_was_trained_on_masks_is_marked(finished: tuple[Values, dict[str, Any]]) -> None:
    values, records = finished
    said = "heat map clip_seg: its model was trained on PhraseCut, numbers there are not zero-shot"
    assert records["heat"]["warnings"] == [said]
    page = Path(values["data"], "report.html").read_text()
    assert said in page, "also for rule heat, whatever map it reads"
    assert "CLIPSeg (trained on PhraseCut)" in page
    entries = {(entry.kind, entry.name): entry for entry in methods(load_project(Path(values["profile"])))}
    for kind, of in (("heat", "clip_seg"), ("heat", "group_vit"), ("rule", "clip_seg"), ("rule", "group_vit")):
        assert entries[kind, of].available, entries[kind, of].reason
    assert entries["heat", "clip_seg"].cost.endswith("; trained on PhraseCut: not zero-shot there")
    assert "trained" not in entries["heat", "group_vit"].cost


def test_other_weights_cost_their_own_kind(profile: Values) -> None:
    before = table(profile, "heat_maps")
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": 0}
    file = Path(profile["heat"]["folder"], "seg/model.safetensors")
    state = load_file(file)
    state["decoder.film_add.bias"] += 1
    save_file(state, file)
    shutil.rmtree(Path(profile["work"], "heat@vit/group_vit"))  # its maps are in the earlier output, CLIPSeg's are not
    record = run_stages(profile, "heat")["heat"]
    assert record["computed"] == {"phrases": len(before["phrase"])}
    after = table(profile, "heat_maps")
    assert list(after["map.group_vit"]) == list(before["map.group_vit"])
    assert not set(after["map.clip_seg"]) & set(before["map.clip_seg"])
    made = [made_of.attrs["parts"] for made_of in (before, after)]
    assert made[0]["group_vit"] == made[1]["group_vit"]
    assert made[0]["clip_seg"] != made[1]["clip_seg"]


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_every_file_of_a_model_is_part_of_the_key(profile: Values, name: str) -> None:
    file = Path(profile["heat"]["folder"], "seg", name)
    file.write_text(file.read_text() + " ")
    whole = len(table(profile, "heat_maps")["phrase"])
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": whole}


def test_the_folders_name_is_no_part_of_the_key(profile: Values) -> None:
    folder = Path(profile["heat"]["folder"])
    (folder / "seg").rename(folder / "renamed")
    profile["heat"]["settings"] = SETTINGS | {"clip_seg": {"model": "renamed", "block": 8}}
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": 0}
    profile["heat"]["settings"] = SETTINGS | {"clip_seg": {"model": "renamed", "block": 4}}
    whole = len(table(profile, "heat_maps")["phrase"])
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": whole}


def test_a_network_is_opened_once_in_a_process(profile: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.heat_maps import transformers_model

    built, network = [], transformers_model.network
    monkeypatch.setattr(transformers_model, "network", lambda *given: built.append(given[2]) or network(*given))
    monkeypatch.setattr("stages.heat._UNIT", 1)
    monkeypatch.setenv("GLIMPSE_UNIT", "2")
    shutil.rmtree(Path(profile["work"], "heat@vit"))
    shutil.rmtree(Path(profile["data"], "heat_maps"))
    assert run_stages(profile, "heat")["heat"]["computed"]["phrases"] > 2
    assert sorted(built) == ["CLIPSegForImageSegmentation", "GroupViTModel"]


def test_what_is_missing_is_said_before_a_run_and_by_the_stage(
    profile: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(profile["profile"])
    file.write_text(yaml.safe_dump(profile))
    project = load_project(file)
    model = Path(profile["heat"]["folder"], "seg")
    assert not [line for line in check(project) if "clip_seg" in line or "group_vit" in line]
    there = [need.where for need in needs(project) if need.what == "weights of the model of heat map clip_seg"]
    assert there == [str(project.path(model / "model.safetensors"))]

    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    _said(project, profile, "clip_seg", "a Git LFS pointer to a file of 12 bytes", WeightsError)
    shutil.rmtree(model)
    _said(project, profile, "clip_seg", "expected the folder of clip_seg's model", WeightsError)
    shutil.copytree(model.with_name("groups"), model)
    _said(project, profile, "clip_seg", "expected model_type 'clipseg', got 'groupvit'", WeightsError)
    monkeypatch.setattr(model_folder, "find_spec", lambda name: None)
    said = "group_vit needs the library transformers, it is not installed; run: "
    said += "pip install -c constraints.txt -e '.[transformers]'"
    _said(project, profile, "group_vit", said, ParameterError)


def _said(project: Any, values: Values, kind: str, text: str, error: type[Exception]) -> None:
    """By preflight in one line, by `glimpse methods` of the map and of its rule, and by the stage."""
    lines = [line for line in check(project) if text in line]
    assert len(lines) == 1
    assert lines[0].endswith(f"docs/methods.md, section {kind}")
    found = {(entry.kind, entry.name): entry for entry in methods(project)}
    for of in ("heat", "rule"):
        assert not found[of, kind].available
        assert text in found[of, kind].reason
    alone = values | {"heat": values["heat"] | {"maps": [kind], "settings": {kind: SETTINGS[kind]}}}
    alone["rules"] = {"enabled": ["global_local", kind]}
    with pytest.raises(error) as stopped:
        run_stages(alone, "heat")
    assert text in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_the_estimate_counts_the_bytes_of_a_map(profile: Values) -> None:
    def disk(*maps: str) -> int:
        profile["heat"] = {"maps": list(maps), "folder": profile["heat"]["folder"]}
        Path(profile["profile"]).write_text(yaml.safe_dump(profile))
        values = load_project(Path(profile["profile"])).values
        return next(e.disk for e in estimates(values, Counts(10, 100, 1000, 0), {}, 0) if e.stage == "heat")

    profile["rules"] = {"enabled": ["global_local"]}
    assert pytest.approx(31_000, rel=0.01) == 88 * 88 * 4
    assert disk("clip_seg") - disk("group_vit") == 2 * 1000 * (31_000 - 784)
