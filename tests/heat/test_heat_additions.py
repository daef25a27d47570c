"""A kind of heat map from outside the package, as CONTRIBUTING.md shows it; and which code the key of a map covers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from demo.refshapes import write_benchmark
from pipeline.commands.pictures import find_pictures
from pipeline.commands.predict import Asked as AskedOf
from pipeline.commands.predict import predict
from pipeline.project import load_project
from pipeline.runner import Execution
from pipeline.setup.preflight import check as preflight
from stages import heat
from stages.heat_maps.table import map_at
from store.errors import ParameterError
from store.fingerprint import BOOKKEEPING, source_files
from store.registry import load_extensions
from store.table import read_table
from tests.helpers.profile import ROOT, profile_at, run_stages

FILE = "heat_maps/colour.py"
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def values(tmp_path: Path) -> Iterator[dict[str, Any]]:
    write_benchmark(tmp_path / "refer", images_per_split=1)
    values = profile_at(tmp_path, tmp_path / "refer")
    values["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["val"]}}
    values["propose"] |= {"source": "instances"}
    values["heat"] = {"maps": ["colour"], "folder": "nowhere"}
    values["rules"] = {"enabled": ["global_local", "heat"], "settings": {"heat": {"map": "colour"}}}
    yield values
    load_extensions(tmp_path / "none")


def text() -> str:
    found = re.search(rf"```python\n(# extensions/{FILE}\n.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert found
    return found[1]


def test_one_file_and_one_entry_run_to_the_report(values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="there is no kind of heat map 'colour'"):
        run_stages(values)
    file = Path(values["extensions"], FILE)
    file.parent.mkdir(parents=True)
    file.write_text(text())
    run_stages(values)
    data = Path(values["data"])
    maps, index = read_table(data / "heat_maps/vit.h5", "heat_maps"), read_table(data / "index.h5", "index")
    for row, (image, sentence) in enumerate(zip(maps["phrase_image"], maps["phrase"], strict=True)):
        named = [COLOURS[word] for word in sentence.split() if word in COLOURS]
        found = map_at(maps.columns, "colour", row)
        if not named:
            assert found is None
            assert maps["status.colour"][row] == "the sentence names no colour"
            continue
        with Image.open(Path(values["images"], index["image_name"][image])) as opened:
            pixels = np.asarray(opened.convert("RGB").resize((16, 16)), np.float64)
        assert found is not None
        np.testing.assert_allclose(found, -np.sqrt(((pixels - named[0]) ** 2).sum(2)), rtol=1e-5)
    assert {state == "" for state in maps["state.colour"]} == {True, False}, "both cases are there"
    assert "encoder" not in maps.attrs
    assert "Heat map" in (data / "report.html").read_text()
    file.write_text(text().replace("(16, 16)", "(8, 8)"))
    assert run_stages(values, "heat")["heat"]["computed"]["phrases"] == len(maps["phrase"]), "other code"


def test_the_key_of_a_map_covers_the_code_of_its_kind() -> None:
    def files(*modules: str) -> set[str]:
        return set(source_files(*modules, "stages.heat_maps.compute", without=BOOKKEEPING))

    drawn, read = files("stages.heat_maps.clip_es"), files("stages.heat_maps.imported")
    assert {"stages.visual.activation_map", "stages.visual.blocks", "stages.heat_maps.encoder"} <= drawn
    assert not [name for name in read if name.startswith(("stages.visual", "stages.text", "stages.clip"))]
    for name in (drawn, read):
        assert "stages.visual.pooling" not in name, "means are made anew in each run"
        assert "store.images" in name


def test_the_key_covers_weights_precision_and_settings(tmp_path: Path) -> None:
    models, nowhere = ROOT / "demo/models", Path("nowhere")
    fields = dict.fromkeys(("index", "images", "proposals", "parse", "folder", "heat_maps"), nowhere)
    paths = heat.Paths(weights=models / "refshapes_clip.safetensors", **fields)
    model = str(models / "refshapes_clip.json")

    def keys(**changes: Any) -> dict[str, str]:
        params = heat.Params(model=model, **({"maps": ["clip_es", "imported"]} | changes))
        return {name: parts.folder.name for name, parts in heat.open_parts(params, paths, tmp_path).items()}

    plain = keys()
    for changes in ({"precision": "bf16"}, {"image_size": 64}, {"settings": {"clip_es": {"threshold": 0.7}}}):
        changed = keys(**changes)
        assert changed["imported"] == plain["imported"]
        assert changed["clip_es"] != plain["clip_es"], changes


def test_an_encoder_that_does_not_offer_a_kind(tmp_path: Path) -> None:
    """Alone it is an error with the profile; beside one that does, the stage leaves the kind out and says so."""
    write_benchmark(tmp_path / "refer", images_per_split=1)
    values = profile_at(tmp_path, tmp_path / "refer")
    values["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["val"]}}
    values["propose"] |= {"source": "instances"}
    values["heat"] = {"maps": ["clip_es"], "settings": {"clip_es": {"longest": 32}}, "folder": "nowhere"}
    values["rules"] = {"enabled": ["global_local", "clip_es"]}
    vit = values["encoders"]["vit"]
    resnet = {name: str(path).replace("refshapes_clip", "refshapes_resnet") for name, path in vit.items()}
    values["encoders"] = {"vit": vit, "resnet": resnet}
    run_stages(values)
    read = {name: read_table(Path(values["data"], f"heat_maps/{name}.h5"), "heat_maps") for name in values["encoders"]}
    assert "map.clip_es" in read["vit"].columns
    assert not [name for name in read["resnet"].columns if "clip_es" in name]
    record = Path(values["work"], "records/heat@resnet.json").read_text()
    assert "an encoder of kind resnet does not offer all heat maps: no clip_es" in record
    assert "encoder resnet has no view for the rules clip_es" in Path(values["work"], "records/score.json").read_text()
    values["encoders"], values["encoder"] = {"resnet": resnet}, "resnet"
    with pytest.raises(
        ParameterError, match=r"heat\.maps: clip_es needs an encoder of kind vit, the profile has resnet"
    ):
        run_stages(values, "heat")


def test_predict_makes_the_maps_that_its_rule_reads_and_no_others(values: dict[str, Any], tmp_path: Path) -> None:
    """The profile has a map that own pictures have not; precision bf16 on the way."""
    values["heat"] = {"maps": ["imported"], "folder": "nowhere"}
    values["rules"] = {"enabled": ["global_local"], "settings": {}}
    values["encoders"]["vit"]["precision"] = "bf16"
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    project = load_project(Path(values["profile"]))
    needs = [need for need in preflight(project) if "maps.jsonl" in need]
    assert len(needs) == 1
    assert "index of imported heat maps; write it (docs/methods.md, imported)" in needs[0]
    values["propose"]["source"] = "freesolo"
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    project = load_project(Path(values["profile"]))
    pictures = find_pictures([str(sorted(Path(values["images"]).glob("*.png"))[0])])
    rows = [{"image": pictures.names[0], "phrase": "the red square"}]
    asked = AskedOf(rule="clip_es")
    own, (found,) = predict(project, pictures, rows, tmp_path / "out", asked, Execution())
    assert own.values.heat.maps == ["clip_es"]
    maps = read_table(own.table("heat_maps/vit.h5"), "heat_maps")
    assert maps.attrs["encoder"]["precision"] == "bf16"
    assert maps["state.clip_es"] == [""]
    assert 0 <= found.score <= 1
    pairs = read_table(own.pairs(), "pairs", ("heat.clip_es",))
    assert found.score == pytest.approx(float(np.nanmax(pairs["heat.clip_es"])))
