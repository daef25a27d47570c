"""``glimpse fetch data NAME`` of a data set that has its pictures in its own files: placed and unpacked, never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.project import LoadedProject, load_project
from pipeline.setup.download import FetchError
from pipeline.setup.pictures import holds_pictures, unpack_pictures
from pipeline.setup.preflight import check
from stages.datasets.choice import read
from store.errors import ParameterError
from tests.helpers.parquet_files import flat_row, picture, write_benchmark, write_parquet, write_refs
from tests.helpers.profile import ROOT

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.usefixtures("only_this_machine")
NAMES = {f"COCO_train2014_{number:012d}.jpg": picture(number) for number in (9, 5)}


@pytest.fixture
def profile(tmp_path: Path) -> LoadedProject:
    """The full benchmark's profile with two data sets in Parquet and one of REFER."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["index"]["datasets"] = {
        "bench": {"kind": "refcoco_parquet", "folder": "refcoco-benchmark", "images": "bench", "split_by": "refcoco_unc",
                  "splits": ["val", "testA"]},
        "flat": {"kind": "refcoco_parquet", "folder": "RefCOCO", "images": "bench", "split_by": "unc", "splits": ["testA"]},
        "refcoco": {"split_by": "unc", "splits": ["val"]},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return load_project(tmp_path / "params.yaml")


def pictures_of(project: LoadedProject) -> dict[str, bytes]:
    folder = project.path("data/images/bench")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_data_sets_with_pictures_are_unpacked(profile: LoadedProject) -> None:
    assert [holds_pictures(profile, name) for name in ("bench", "flat", "refcoco", "phrasecut")] == [
        True,
        True,
        False,
        False,
    ]


def test_files_are_placed_and_their_pictures_unpacked_once(profile: LoadedProject, tmp_path: Path) -> None:
    own = write_benchmark(tmp_path / "downloads/refcoco-benchmark")
    params = ["--params", str(profile.file)]
    done = CliRunner().invoke(app, ["fetch", "data", "bench", "--from", str(own), *params])
    assert done.exit_code == 0, done.output
    assert "2 pictures of bench unpacked, 0 were there" in done.output.replace("\n", " ")
    assert pictures_of(profile) == NAMES
    choice = profile.values.index.datasets["bench"]
    data = read(profile.path("data/refer"), "bench", choice)
    assert {image.file_name for image in data.images} == set(NAMES)
    assert all(file.is_file() for file in own.rglob("*.parquet")), "never moved"
    said: list[str] = []
    unpack_pictures(profile, "bench", None, said.append)
    assert said[-1].endswith("0 pictures of bench unpacked, 2 were there")


def test_another_picture_of_that_name_is_not_overwritten(profile: LoadedProject) -> None:
    write_parquet(profile.path("data/refer/RefCOCO/testA-0.parquet"), [flat_row(1, 9), flat_row(2, 5)])
    target = profile.path("data/images/bench") / f"COCO_train2014_{5:012d}.jpg"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    with pytest.raises(FetchError, match=r"000005\.jpg: another picture than that of the annotations stands there"):
        unpack_pictures(profile, "flat", None)
    assert target.read_bytes() == b"mine"
    target.unlink()
    unpack_pictures(profile, "flat", None)
    assert pictures_of(profile) == NAMES


@pytest.mark.parametrize("name", ["../up.jpg", "/up.jpg", "a/../../up.jpg"])
def test_no_picture_leaves_its_folder(profile: LoadedProject, tmp_path: Path, name: str) -> None:
    write_parquet(profile.path("data/refer/RefCOCO/testA-0.parquet"), [flat_row(1, 9, file_name=name)])
    with pytest.raises(FetchError, match="nothing more was unpacked"):
        unpack_pictures(profile, "flat", None)
    assert not list(tmp_path.rglob("up.jpg"))


def test_what_is_not_there_is_said_with_the_command(profile: LoadedProject, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="glimpse fetch data bench --from FOLDER"):
        unpack_pictures(profile, "bench", None)
    for given in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FetchError, match="Parquet files of jxu124"):
            unpack_pictures(profile, "bench", given)
    write_refs(profile.path("data/refer/refcoco-benchmark"))
    with pytest.raises(ParameterError, match="hold no pixels"):
        unpack_pictures(profile, "bench", None)


def test_preflight_names_the_command(profile: LoadedProject) -> None:
    told = [line for line in check(profile) if "annotations of refcoco-benchmark" in line]
    assert len(told) == 1
    assert f"glimpse fetch data bench --from FOLDER --params {profile.file}" in told[0]
    write_benchmark(profile.path("data/refer/refcoco-benchmark"))
    lines = check(profile)
    assert not [line for line in lines if "annotations of refcoco-benchmark" in line]
    (images,) = [line for line in lines if "2 images that the annotations name, the first bench/COCO_train2014" in line]
    assert images.endswith(f"; glimpse fetch data bench --params {profile.file}")
    unpack_pictures(profile, "bench", None)
    assert not [line for line in check(profile) if "images that the annotations name" in line]
