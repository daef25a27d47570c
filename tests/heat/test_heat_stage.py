"""Stage heat through the commands of dvc.yaml on a small RefShapes: maps, means, rules and metrics; resume; faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from demo.refshapes import write_benchmark
from stages import heat
from stages.heat_maps.compute import LOST
from stages.heat_maps.table import map_at
from stages.visual.activation_map import Activations
from store.errors import DataError, ParameterError, StoreError
from store.segmentation import decode
from store.states import State
from store.table import Table, read_table
from tests.helpers.documents import data_sets
from tests.helpers.profile import profile_at, run_stages

Values = dict[str, Any]
BEFORE = ("index", "propose", "embed_masks", "parse", "embed_text", "overlap")
AFTER = ("heat", "pair", "score")
SETTINGS = {"clip_es": {"longest": 64}}
WITHOUT = 5
"""Every so many phrases has no imported map."""


@pytest.fixture(scope="module")
def refer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refshapes") / "refer"
    write_benchmark(folder, images_per_split=2)
    return folder


def values_at(folder: Path, refer: Path) -> Values:
    values = profile_at(folder, refer)
    values["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["val", "testA"]}}
    values["propose"] |= {"source": "instances"}
    values["heat"] = {"maps": ["clip_es", "imported"], "settings": SETTINGS, "folder": f"{folder}/maps"}
    values["rules"] = {"enabled": ["global_local", "clip_es", "heat"], "settings": {"heat": {"map": "imported"}}}
    values["bootstrap"]["resamples"] = 5
    return values


def table(values: Values, name: str) -> Table:
    file = f"{name}/vit.h5" if name in ("pairs", "heat_maps") else f"{name}.h5"
    return read_table(Path(values["data"], file), name)


def import_maps(values: Values) -> dict[tuple[str, str], np.ndarray]:
    """Random maps of the annotated sentences, of any grids: written as another program would, and kept."""
    rng, index = np.random.default_rng(4), table(values, "index")
    folder, made, rows = Path(values["heat"]["folder"]), {}, []
    folder.mkdir()
    for expression, sentence in enumerate(index["expression_raw"]):
        image = index["image_name"][index["ref_image"][index["expression_ref"][expression]]]
        if (image, sentence) in made or expression % WITHOUT == 0:
            continue
        made[image, sentence] = rng.normal(size=rng.integers(2, 9, 2)).astype(np.float32)
        np.save(folder / f"{expression}.npy", made[image, sentence])
        rows.append({"image": image, "phrase": sentence, "file": f"{expression}.npy"})
    (folder / "maps.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return made


@pytest.fixture(scope="module")
def finished(refer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Values, dict[str, Any], dict[Any, Any]]:
    values = values_at(tmp_path_factory.mktemp("finished"), refer)
    run_stages(values, "index")
    made = import_maps(values)
    records = run_stages(values, *BEFORE, *AFTER)
    return values, records, made


@pytest.fixture
def profile(finished: tuple[Values, Any, Any], tmp_path: Path, refer: Path) -> Values:
    """A profile of its own that has run up to heat, without the parts of heat."""
    before = finished[0]
    for name in ("data", "work", "maps"):
        shutil.copytree(Path(before["profile"]).parent / name, tmp_path / name)
    shutil.rmtree(tmp_path / "work/heat@vit")
    shutil.rmtree(tmp_path / "data/heat_maps")
    return values_at(tmp_path, refer)


def heat_file(values: Values) -> bytes:
    return Path(values["data"], "heat_maps/vit.h5").read_bytes()


def test_imported_maps_run_to_a_rules_numbers(finished: tuple[Values, dict[str, Any], dict[Any, Any]]) -> None:
    """Upsample each map, average inside each mask, choose the highest, count: no code of ours but the tables' reader."""
    values, _, made = finished
    index, proposals, scores, pairs = (table(values, name) for name in ("index", "proposals", "scores", "pairs"))
    ious: dict[int, list[float]] = {}
    lost: dict[int, int] = {}
    for expression, ref in enumerate(index["expression_ref"].tolist()):
        image, group = int(index["ref_image"][ref]), int(index["ref_group"][ref])
        name, size = index["image_name"][image], tuple(index["image_size"][image].tolist())
        heat_map = made.get((name, index["expression_raw"][expression]))
        own = slice(*pairs["expression_offsets"][expression : expression + 2].tolist())
        if heat_map is None:
            assert scores["chosen.heat"][expression] == -1
            assert np.isnan(pairs["heat.imported"][own]).all()
            ious.setdefault(group, []).append(0.0)
            lost[group] = lost.get(group, 0) + 1
            continue
        up = functional.interpolate(torch.from_numpy(heat_map)[None, None], size, mode="bilinear")[0, 0].numpy()
        rows = range(*proposals["image_offsets"][image : image + 2].tolist())
        masks = decode([proposals["mask"][row] for row in rows], *size)
        means = [up[mask].mean() for mask in masks]
        np.testing.assert_allclose(pairs["heat.imported"][own], means, atol=1e-5)
        outside = [up[~mask].mean() for mask in masks]
        np.testing.assert_allclose(
            pairs["heat.imported.inside_minus_outside"][own], np.subtract(means, outside), atol=1e-5
        )
        best = int(np.argmax(means))
        assert scores["chosen.heat"][expression] == best
        truth = decode([index["ref_mask"][ref]], *size)[0]
        ious.setdefault(group, []).append((truth & masks[best]).sum() / (truth | masks[best]).sum())
    metrics = data_sets(Path(values["metrics"]))
    assert sum(lost.values()) >= 2
    for group, (dataset, split) in enumerate(index.attrs["groups"]):
        found = metrics[dataset][split]
        assert found["heat"]["miou"] == pytest.approx(np.mean(ious[group]), abs=1e-9)
        assert found["counts"]["lost_imported_maps"] == lost.get(group, 0)
        assert found["counts"]["lost_clip_es_maps"] == _lost_of_clip_es(values, group)


def _lost_of_clip_es(values: Values, group: int) -> int:
    maps, index = table(values, "heat_maps"), table(values, "index")
    groups = index["ref_group"][index["expression_ref"]]
    return sum(
        bool(maps["state.clip_es"][p]) for p, g in zip(maps["expression_phrase"], groups, strict=True) if g == group
    )


def test_lost_maps_have_a_state_a_reason_and_reach_the_pair_table(finished: tuple[Values, dict[str, Any], Any]) -> None:
    values, records, _ = finished
    maps, pairs = table(values, "heat_maps"), table(values, "pairs")
    lost = [row for row, state in enumerate(maps["state.imported"]) if state]
    assert {maps["state.imported"][row] for row in lost} == {LOST}
    assert {maps["status.imported"][row] for row in lost} == {"no row of maps.jsonl is about this image and phrase"}
    (loss,) = [loss for loss in pairs.attrs["losses"] if loss["what"] == "imported maps"]
    assert (loss["state"], loss["count"], loss["of"]) == (LOST, len(lost), len(maps["phrase"]))
    assert any("imported maps cannot be used" in warning for warning in records["heat"]["warnings"])
    assert f"imported map of phrase {lost[0]}: {maps['status.imported'][lost[0]]}" in records["heat"]["skipped"]
    assert set(pairs["expression_state"]) == {""}, "other rules do not need the map"


def test_the_maps_of_clip_es_are_those_of_its_noun_phrase(finished: tuple[Values, dict[str, Any], Any]) -> None:
    """The texts of a phrase: its own, the other phrases, the background; embedded by open_clip's own way."""
    import open_clip
    from PIL import Image

    from stages.clip.weights import load_clip
    from stages.heat_maps.clip_es import BACKGROUND
    from stages.visual.activation_map import refined
    from stages.visual.mask_encoder import MaskEncoder

    assert len(BACKGROUND) == len(set(BACKGROUND)) == 23
    values, _, _ = finished
    encoder = values["encoders"]["vit"]
    model, tokenizer = load_clip(encoder["model"], Path(encoder["weights"]))
    assert isinstance(model, open_clip.CLIP)
    maps, parse, index = (table(values, name) for name in ("heat_maps", "parse", "index"))
    compared = 0
    for expression in range(0, len(parse["sentence"]), 4):
        phrase = int(maps["expression_phrase"][expression])
        image = Image.open(Path(values["images"], index["image_name"][maps["phrase_image"][phrase]])).convert("RGB")
        texts = [parse["noun_phrase"][expression], *json.loads(parse["other_phrases"][expression]), *BACKGROUND]
        with torch.no_grad():
            vectors = model.encode_text(
                tokenizer([f"a clean origami {t}." for t in dict.fromkeys(texts)]), normalize=True
            )
        activations = Activations.of(MaskEncoder(model), image, 64, True)
        expected = activations.map_of(vectors.double().numpy(), float(model.logit_scale.exp()))
        found = map_at(maps.columns, "clip_es", phrase)
        if found is None:
            assert not expected.any()
            continue
        np.testing.assert_allclose(found, refined(expected, activations.affinity, 0.4), atol=2e-4)
        compared += 1
    assert compared >= 4


class Stop(Exception):
    """Stands for a kill."""


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    finished: tuple[Values, dict[str, Any], Any], profile: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, records, _ = finished
    monkeypatch.setattr(heat, "_UNIT", 1)
    monkeypatch.setenv("GLIMPSE_UNIT", "3")
    open_image, left = Activations.of, [1, 1]

    def of(*given: Any) -> Activations:
        if not left:
            raise Stop
        left.pop()
        return open_image(*given)

    with monkeypatch.context() as patched:
        patched.setattr(Activations, "of", of)
        with pytest.raises(Stop):
            run_stages(profile, "heat")
    assert not Path(profile["data"], "heat_maps/vit.h5").exists()
    record, whole = run_stages(profile, "heat")["heat"], records["heat"]["computed"]["phrases"]
    assert record["reused"]["phrases"] + record["computed"]["phrases"] == whole
    assert 0 < record["reused"]["phrases"] < whole
    assert heat_file(values) == heat_file(profile), "nor does it matter how many phrases a part holds"
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": 0}


def test_other_proposals_cost_the_means_alone(finished: tuple[Values, Any, Any], profile: Values) -> None:
    run_stages(profile, "heat")
    before = table(profile, "heat_maps")
    profile["propose"] |= {"source": "freesolo"}
    run_stages(profile, "propose")
    record = run_stages(profile, "heat")["heat"]
    assert record["computed"] == {"phrases": 0}
    after = table(profile, "heat_maps")
    for kind in ("clip_es", "imported"):
        assert list(before[f"map.{kind}"]) == list(after[f"map.{kind}"])
    assert after["expression_offsets"][-1] != before["expression_offsets"][-1]


def test_an_earlier_output_serves_where_the_parts_are_gone(finished: tuple[Values, Any, Any], profile: Values) -> None:
    run_stages(profile, "heat")
    before = heat_file(profile)
    shutil.rmtree(Path(profile["work"], "heat@vit"))
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": 0}
    assert heat_file(profile) == before


def test_another_setting_or_map_costs_its_own_kind(profile: Values) -> None:
    whole = run_stages(profile, "heat")["heat"]["computed"]["phrases"]
    folder = Path(profile["heat"]["folder"])
    first = sorted(folder.glob("*.npy"))[0]
    np.save(first, np.load(first) + np.eye(*np.load(first).shape))
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": 1}
    profile["heat"]["settings"] = {"clip_es": {"longest": 64, "affinity": False}}
    assert run_stages(profile, "heat")["heat"]["computed"] == {"phrases": whole}


def test_files_that_are_not_there_stop_the_run_and_only_they_are_computed_later(profile: Values) -> None:
    folder = Path(profile["heat"]["folder"])
    first = sorted(folder.glob("*.npy"))[0]
    kept = first.read_bytes()
    first.unlink()
    record = run_stages(profile, "heat")["heat"]
    assert record["stopped"]
    assert record["transient"] == [
        f"{first}: expected a heat map, cannot read it (No such file or directory); put it there"
    ]
    first.write_bytes(kept)
    record = run_stages(profile, "heat")["heat"]
    assert (record["stopped"], record["computed"]) == (False, {"phrases": 1})


def test_an_image_that_cannot_be_read_loses_its_own_maps(
    finished: tuple[Values, Any, Any], profile: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, index = tmp_path / "images", table(profile, "index")
    shutil.copytree(profile["images"], images)
    profile["images"] = str(images)
    (images / index["image_name"][0]).unlink()
    monkeypatch.setenv("GLIMPSE_ALLOW_LOST", "1")
    record, maps = run_stages(profile, "heat")["heat"], table(profile, "heat_maps")
    assert not record["stopped"]
    own = maps["phrase_image"] == 0
    assert {state for state, mine in zip(maps["state.clip_es"], own, strict=True) if mine} == {State.UNREADABLE_IMAGE}
    assert State.UNREADABLE_IMAGE not in {s for s, mine in zip(maps["state.clip_es"], own, strict=True) if not mine}
    assert State.UNREADABLE_IMAGE not in maps["state.imported"]
    assert {key for key, mine in zip(maps["key.clip_es"], own, strict=True) if mine} == {""}


def test_without_maps_nothing_is_computed_and_the_other_rules_choose_the_same(
    finished: tuple[Values, Any, Any], profile: Values
) -> None:
    before = finished[0]
    profile["heat"] = {"maps": [], "folder": "nowhere"}
    profile["rules"] = {"enabled": ["global_local"]}
    records = run_stages(profile, *AFTER)
    assert records["heat"]["computed"] == {}
    assert not Path(profile["work"], "heat@vit/clip_es").exists()
    assert len(heat_file(profile)) < 20_000
    assert not [name for name in table(profile, "pairs").columns if name.startswith("heat")]
    first, second = table(before, "pairs").columns, table(profile, "pairs").columns
    assert set(first) - set(second) == {
        f"heat.{kind}{pooling}" for kind in ("clip_es", "imported") for pooling in ("", ".inside_minus_outside")
    }
    for name, values in second.items():
        np.testing.assert_array_equal(np.array(first[name]), np.array(values))
    chosen = [table(values, "scores")["chosen.global_local"] for values in (before, profile)]
    np.testing.assert_array_equal(*chosen)
    for splits in data_sets(Path(profile["metrics"])).values():
        for split in splits.values():
            assert not [name for name in split["counts"] if "maps" in name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"maps": ["clip_se"]}, "there is no kind of heat map 'clip_se'; did you mean 'clip_seg'"),
        ({"maps": [], "settings": SETTINGS}, "heat.settings.clip_es: 'clip_es' is not among heat.maps; add it there"),
        (
            {"maps": ["clip_es"], "settings": {"clip_es": {"longst": 3}}},
            r"heat.settings.clip_es: longst: .* it knows text, template, longest",
        ),
        (
            {"maps": ["clip_es"], "settings": {"clip_es": {"longest": 3}}},
            "longest: .*greater than or equal to 32, got 3",
        ),
        ({"maps": ["imported"], "settings": {"imported": {"a": 3}}}, "it knows none"),
    ],
)
def test_values_are_checked_with_the_profile(profile: Values, change: Values, said: str) -> None:
    profile["heat"] = change
    with pytest.raises(ParameterError, match=said):
        run_stages(profile, "heat")


def test_a_rule_without_its_map_is_an_error_that_says_what_to_add(profile: Values) -> None:
    profile["heat"] = {"maps": [], "folder": "nowhere"}
    run_stages(profile, "heat", "pair")
    with pytest.raises(ParameterError, match=r"rule clip_es: needs heat map 'clip_es'.*add clip_es to heat\.maps"):
        run_stages(profile, "score")


def test_no_map_at_all_is_an_error(profile: Values) -> None:
    Path(profile["heat"]["folder"], "maps.jsonl").write_text("")
    with pytest.raises(
        DataError, match=r"none of \d+ imported maps can be used: .* x lost map, such as imported map of"
    ):
        run_stages(profile, "heat")


def test_pairs_refuse_the_maps_of_other_tables(profile: Values) -> None:
    run_stages(profile, "heat")
    profile["propose"] |= {"source": "freesolo"}
    run_stages(profile, "propose", "embed_masks", "overlap")
    with pytest.raises(StoreError, match=r"heat_maps/vit\.h5 was made from another proposals"):
        run_stages(profile, "pair")
