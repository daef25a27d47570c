"""Runs with every proposal source on a small RefShapes: what the later stages make of it, and what is computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from demo.refshapes import write_benchmark
from pipeline.project import load_project
from pipeline.registry import STAGES
from pipeline.setup.preflight import check
from pipeline.status import remove_unused_parts
from stages.proposals import freesolo_units
from stages.proposals.freesolo import FreeSolo
from store.segmentation import decode
from store.table import Table, read_table
from tests.helpers.documents import data_sets
from tests.helpers.profile import demo_values, run_stages

Values = dict[str, Any]


@pytest.fixture(scope="module")
def refer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refshapes") / "refer"
    write_benchmark(folder, images_per_split=1)
    return folder


@pytest.fixture
def profile(refer: Path, tmp_path: Path) -> Values:
    values = demo_values(tmp_path)
    values["index"]["annotations"], values["images"] = str(refer), str(refer / "images")
    values["sweep"] |= {"alphas": 3, "betas": 3}
    values["report"], values["bootstrap"] = {"cards": 1}, {"resamples": 5, "seed": 0}
    return values


def table(values: Values, name: str) -> Table:
    return read_table(Path(values["data"], f"{name}.h5"), name)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Gets an entry for each forward pass of FreeSOLO."""
    calls: list[None] = []
    forward = FreeSolo.forward

    def counted(self: FreeSolo, batch: Any) -> Any:
        calls.append(None)
        return forward(self, batch)

    monkeypatch.setattr(FreeSolo, "forward", counted)
    return calls


def test_another_box_rule_runs_no_network(
    profile: Values, forwards: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages(profile, "index", "propose")
    reference, images = table(profile, "proposals"), len(forwards)
    assert images == 3
    assert reference.attrs["config"]["source"] == "freesolo"
    assert reference.attrs["config"]["box"] == "reference"
    profile["propose"]["box"] = "tight"
    with monkeypatch.context() as patched:
        patched.setattr(freesolo_units, "item_of", None)  # both boxes were kept
        record = run_stages(profile, "propose")["propose"]
    tight = table(profile, "proposals")
    assert len(forwards) == images
    assert record["reused"] == {"images": 3}
    assert tight.attrs["config"] == {**reference.attrs["config"], "box": "tight"}
    for name in ("mask", "score", "area", "status"):
        assert list(tight[name]) == list(reference[name])
    sizes = table(profile, "index")["image_size"]
    for image, (start, end) in enumerate(zip(tight["image_offsets"], tight["image_offsets"][1:], strict=False)):
        for at, mask in enumerate(decode(tight["mask"][start:end], *sizes[image].tolist()), start):
            y, x = np.nonzero(mask)
            assert tight["box"][at].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert (tight["box"] != reference["box"]).any()
    profile["propose"]["update_threshold"] = 0.5
    assert run_stages(profile, "propose")["propose"]["computed"] == {"images": 3}
    assert len(forwards) == 2 * images


def test_boxes_are_those_of_freesolo(profile: Values) -> None:
    run_stages(profile, "index", "propose")
    proposals, index = table(profile, "proposals"), table(profile, "index")
    from stages.clip.state_dict import read_state_dict

    weights = read_state_dict(Path(profile["propose"]["input"]))
    settings = {n: v for n, v in profile["propose"].items() if n not in ("source", "input")}
    with Image.open(Path(profile["images"], index["image_name"][0])) as image:
        found = FreeSolo.from_state_dict(weights, **settings).propose(image)
    end = proposals["image_offsets"][1]
    np.testing.assert_array_equal(proposals["box"][:end], found.boxes)
    np.testing.assert_array_equal(proposals["score"][:end], found.scores)


def test_freesolos_own_proposals_through_a_coco_file_change_nothing(profile: Values, forwards: list[None]) -> None:
    """Masks, boxes, scores and order survive the way through JSON, so that even the features stay those at hand."""
    run_stages(profile, "index", "propose", "embed_masks")
    own, index = table(profile, "proposals"), table(profile, "index")
    assert not any(own["status"])
    offsets = own["image_offsets"]
    rows = [
        {
            "image_id": int(index["image_id"][image]),
            "category_id": 1,
            "segmentation": {"size": index["image_size"][image].tolist(), "counts": own["mask"][at].decode()},
            "score": float(own["score"][at]),
        }
        for image in range(len(offsets) - 1)
        for at in range(offsets[image], offsets[image + 1])
    ]
    file = Path(profile["data"], "masks.json")
    file.write_text(json.dumps(rows))
    profile["propose"] |= {"source": "coco", "input": str(file)}
    before = len(forwards)
    record = run_stages(profile, "propose")["propose"]
    assert record["read"] == {"images": 3, "rows": len(rows)}
    assert record["warnings"] == record["skipped"] == []
    assert table(profile, "proposals").digest == own.digest
    assert len(forwards) == before
    assert run_stages(profile, "embed_masks")["embed_masks"]["computed"] == {"images": 0}


def test_clean_keeps_freesolos_masks_while_another_source_proposes(
    profile: Values, params_file: Path, forwards: list[None]
) -> None:
    def cleaned() -> list[tuple[int, bool]]:
        """max_proposals of each configuration that `clean` finds unused, and whether it is kept; the profile as it is."""
        params_file.write_text(yaml.safe_dump(profile))
        said = [
            (json.loads((unused.folder / "config.json").read_text())["max_proposals"], bool(unused.kept))
            for unused in remove_unused_parts(load_project(params_file), dry_run=True)
        ]
        done = remove_unused_parts(load_project(params_file))
        assert [unused.folder.exists() for unused in done] == [kept for _, kept in said]
        return said

    most, own = profile["propose"]["max_proposals"], dict(profile["propose"])
    run_stages(profile, "index", "propose")
    assert cleaned() == []
    profile["propose"] |= {"source": "instances", "input": "no/such/file"}
    assert cleaned() == []  # the last run used them, whatever the profile says now
    run_stages(profile, "propose")
    assert cleaned() == [(most, True)]
    profile["propose"] = own
    assert cleaned() == [(most, True)]
    before = len(forwards)
    run_stages(profile, "propose")
    assert len(forwards) == before
    profile["propose"] = {**own, "max_proposals": 1}
    run_stages(profile, "propose")
    profile["propose"] = own  # a look at another setting, and back
    assert cleaned() == [(most, True)]
    profile["propose"] = {**own, "max_proposals": 1}
    assert cleaned() == [(most, False)]


def test_the_upper_bound_of_annotated_objects_is_perfect(profile: Values) -> None:
    """All later stages run; every ref's annotation is among the proposals of its image."""
    profile["propose"] |= {"source": "instances", "input": "no/such/file", "max_proposals": 1}
    records = run_stages(profile, *(name for name in STAGES if name != "report"))
    index, proposals = table(profile, "index"), table(profile, "proposals")
    assert records["propose"]["wrote"]["proposals"] == len(proposals["mask"]) == len(index["instance_mask"])
    assert list(proposals["mask"]) == list(index["instance_mask"])
    assert set(proposals["score"].tolist()) == {1.0}
    metrics = data_sets(Path(profile["metrics"]))
    for splits in metrics.values():
        for split in splits.values():
            assert split["upper_bound"]["n"] == split["counts"]["expressions"] > 0
            assert split["upper_bound"]["miou"] == split["upper_bound"]["oiou"] == 1.0
            assert 0 < split["random"]["miou"] < 1.0


@pytest.fixture
def params_file(profile: Values, tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def faults(profile: Values, file: Path, **propose: str) -> list[str]:
    """What preflight says about the proposals' input."""
    values = {**profile, "root": ".", "propose": {**profile["propose"], **propose}}
    file.write_text(yaml.safe_dump(values))
    return [line for line in check(load_project(file)) if "spaCy" not in line]


def test_preflight_asks_for_what_the_source_reads(profile: Values, params_file: Path) -> None:
    assert faults(profile, params_file) == []
    for source, expected in (
        ("freesolo", "mask proposal weights"),
        ("masks", "mask proposals of any form, a file or a folder"),
        ("coco", "mask proposals of any form, a file or a folder"),
        ("instances", "not read by this source, but DVC wants it"),
    ):
        (line,) = faults(profile, params_file, source=source, input="nowhere")
        assert line.startswith(f"{params_file.parent}/nowhere: ")
        assert expected in line
    folder = str(profile["images"])
    assert faults(profile, params_file, source="instances", input=folder) == []
    assert faults(profile, params_file, source="masks", input=folder) == [], "masks may be a folder"
    assert len(faults(profile, params_file, source="freesolo", input=folder)) == 1
