"""Outputs without a work folder (`dvc pull`): what they hold is not computed again, and parts made of them are equal."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.refshapes import write_benchmark
from store.vectors import MANIFEST, Vectors
from store.work import Parts
from tests.helpers.profile import demo_values, run_stages

Values = dict[str, Any]
STAGES = ("index", "propose", "embed_masks", "parse", "embed_text")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Values:
    """A run whose encoder also has a view that reads no boxes and one that leaves masks without a vector."""
    folder = tmp_path_factory.mktemp("made")
    write_benchmark(folder / "refer", images_per_split=1)
    values = demo_values(folder)
    values["propose"]["max_proposals"] = 10
    values["embed_masks"] |= {"views": ["global", "local", "text_region"]}
    run_stages(values, *STAGES)
    return values


@pytest.fixture
def pulled(made: Values, tmp_path: Path) -> Values:
    """The same profile in another folder, with the outputs and without parts."""
    values = demo_values(tmp_path)
    values |= {"images": made["images"]}
    values["index"]["annotations"] = made["index"]["annotations"]
    values["propose"], values["embed_masks"] = dict(made["propose"]), dict(made["embed_masks"])
    shutil.copytree(made["data"], values["data"])
    return values


def parts_of(values: Values) -> dict[str, list[dict[str, np.ndarray]]]:
    """Kind -> the arrays of every input's item, through the parts themselves, in the order of the keys."""
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for config in sorted(Path(values["work"]).rglob("config.json")):
        folder = config.parent
        parts = Parts.__new__(Parts)
        parts.folder = folder
        parts._where, parts._inputs = {}, {}
        parts._open = OrderedDict()
        for line in parts._manifest():
            parts._count(line["part"], line["inputs"])
        found[f"{folder.parent.name}/{folder.name}"] = [
            {"key": np.array(k), **parts.get(k)} for k in sorted(parts._where)
        ]
    return found


def test_nothing_is_computed_again(made: Values, pulled: Values) -> None:
    records = run_stages(pulled, *STAGES)
    for stage in ("propose", "embed_masks", "embed_text"):
        assert not any(records[stage]["computed"].values()), stage
        assert any(records[stage]["reused"].values()), stage
    ours, theirs = parts_of(pulled), parts_of(made)
    for kind in (name for name in theirs if not name.startswith("sentences")):
        for one, other in zip(ours[kind], theirs[kind], strict=True):
            assert one.keys() == other.keys(), kind
            for name, values in one.items():
                np.testing.assert_array_equal(values, other[name], err_msg=f"{kind} {name}")
    for file in sorted(Path(made["data"]).rglob("*")):
        if file.is_file():
            assert file.read_bytes() == Path(pulled["data"], file.relative_to(made["data"])).read_bytes(), file


def test_a_new_k_costs_only_itself(pulled: Values) -> None:
    pulled["embed_masks"]["masked_blocks"] = [2, 3]
    record = run_stages(pulled, "embed_masks")["embed_masks"]
    assert record["computed"]["images"] > 0
    work = Path(pulled["work"], "embed_masks@vit")
    by_seconds = {}
    for manifest in work.rglob("manifest.jsonl"):
        lines = manifest.read_text().splitlines()
        by_seconds[manifest.parent.parent.name] = all('"seconds":0.0,' in line for line in lines)
    assert by_seconds == {"global.k3": True, "global.k2": False, "local": True, "text_region": True}


def test_other_values_are_not_taken_over(pulled: Values) -> None:
    pulled["embed_masks"]["short_side"] = 64
    assert run_stages(pulled, "embed_masks")["embed_masks"]["reused"] == {"images": 0}


def test_a_damaged_output_is_computed_again(pulled: Values) -> None:
    folder = Path(pulled["data"], "mask_features/vit")
    before = Vectors(folder, "mask_features").rows("view.local")
    shard = next(folder.glob("view.local/c/0/0"))
    damaged = bytearray(shard.read_bytes())
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    record = run_stages(pulled, "embed_masks")["embed_masks"]
    assert record["computed"]["images"] > 0
    np.testing.assert_allclose(Vectors(folder, "mask_features").rows("view.local"), before, atol=1e-5)
    (folder / MANIFEST).write_text("{}")
    shutil.rmtree(pulled["work"])
    assert run_stages(pulled, "embed_masks")["embed_masks"]["reused"] == {"images": 0}
