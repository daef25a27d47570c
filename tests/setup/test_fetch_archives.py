"""Archives: unpacked whole, only what is wanted, and nothing hostile ever outside their folder."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.project import LoadedProject
from pipeline.setup import fetch as fetching
from pipeline.setup.download import FetchError
from pipeline.setup.holdings import record_of
from pipeline.setup.sources import destination, find
from pipeline.setup.unpack import unpack
from tests.helpers.fetch_sources import (
    files_below,
    full_project,
    phrasecut_contents,
    phrasecut_files,
    refcoco,
    refcoco_files,
    refcoco_zip,
    refused,
    run,
    small,
    zipped,
)
from tests.helpers.file_server import FileServer
from tests.helpers.refer_files import INSTANCES, data_root

pytestmark = pytest.mark.usefixtures("only_this_machine")


def assert_refcoco_is_there(project: LoadedProject) -> None:
    folder = project.path("data/refer/refcoco")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == refcoco_files()


def test_an_archive_is_unpacked_and_removed(project: LoadedProject) -> None:
    with FileServer({"refcoco.zip": refcoco_zip()}) as server:
        run(project, refcoco(server.url("")))
        assert_refcoco_is_there(project)
        names = {f"data/refer/refcoco/{name}" for name in refcoco_files()}
        assert files_below(project.folder) == names | {"data/refer/refcoco.zip.sha256"}
        run(project, refcoco(server.url("")))
        assert len(server.asked) == 1
        (project.path("data/refer/refcoco") / "refs(unc).p").unlink()
        run(project, refcoco(server.url("")))
    assert_refcoco_is_there(project)


def test_an_interrupted_unpacking_goes_on_without_the_network(
    project: LoadedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*words: Any) -> int:
        raise KeyboardInterrupt

    with FileServer({"refcoco.zip": refcoco_zip()}) as server, monkeypatch.context() as patch:
        patch.setattr(fetching, "unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            run(project, refcoco(server.url("")))
    run(project, refcoco())
    assert_refcoco_is_there(project)


def test_an_archive_of_the_user_stays(project: LoadedProject, tmp_path: Path) -> None:
    own = tmp_path / "own.zip"
    own.write_bytes(refcoco_zip())
    run(project, refcoco(), own)
    assert_refcoco_is_there(project)
    assert own.read_bytes() == refcoco_zip()


@pytest.mark.parametrize("below", ["", "refcoco"])
def test_an_unpacked_folder_of_the_user_serves_too(project: LoadedProject, tmp_path: Path, below: str) -> None:
    own = tmp_path / "own" / below
    own.mkdir(parents=True)
    for name, data in refcoco_files().items():
        (own / name).write_bytes(data)
    (own / "refs(unc).p").rename(tmp_path / "aside")
    said = refused(project, refcoco(), tmp_path / "own")
    assert "found 2 files of it, and not refs(unc).p, which the profile needs" in said
    assert not project.path("data/refer/refcoco").exists()
    (tmp_path / "aside").rename(own / "refs(unc).p")
    run(project, refcoco(), tmp_path / "own")
    assert_refcoco_is_there(project)


def test_images_are_counted(project: LoadedProject, tmp_path: Path) -> None:
    files = {f"COCO_train2014_{n:012d}.jpg": bytes([n]) for n in range(5)}
    data = zipped({f"train2014/{name}": content for name, content in files.items()})
    source = small("data", "coco-train2014", {"train2014.zip": data})
    archive = source.items[0].archive
    assert archive
    source = replace(source, items=(replace(source.items[0], archive=replace(archive, count=5)),))
    folder = destination(project, source.items[0])
    own = tmp_path / "train2014"
    own.mkdir()
    for name in list(files)[:4]:
        (own / name).write_bytes(files[name])
    assert "found 4 files of it" in refused(project, source, own)
    (tmp_path / "train2014.zip").write_bytes(data)
    run(project, source, tmp_path / "train2014.zip")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert run(project, source) == [f"{folder}: train2014.zip is unpacked already"]
    (folder / min(files)).unlink()
    assert "did not give it" in refused(project, source)


def test_phrasecut_unpacks_only_the_listed_images(project: LoadedProject) -> None:
    contents = phrasecut_contents()
    with FileServer({name: data for name, data in contents.items() if name != "images2.zip"}) as server:
        source = small("data", "phrasecut", contents, server.url(""))
        assert "images2.zip: Visual Genome's host at Stanford did not give it" in refused(project, source)
        server.files["images2.zip"] = contents["images2.zip"]
        run(project, source)
        asked = [name for name, _ in server.asked]
        assert asked == [*contents, "images2.zip"], "what came is not asked for again"
    folder = destination(project, source.items[-1])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "11.jpg": b"eleven",
        "22.jpg": b"twenty-two",
        "44.jpg": b"forty-four",
    }
    (folder / "44.jpg").unlink()
    assert "1 of 3 files (the first 44.jpg) are missing" in refused(project, source)


def test_a_damaged_archive_without_a_known_digest_is_fetched_anew(project: LoadedProject) -> None:
    contents = phrasecut_contents()
    good = contents["images.zip"]
    contents["images.zip"] = good[:-9] + b"x" * 9
    with FileServer(contents) as server:
        source = small("data", "phrasecut", contents, server.url(""))
        assert "images.zip.part: not a zip file" in refused(project, source)
        contents["images.zip"] = good
        run(project, source)
    assert server.asked[-2] == ("images.zip", "")
    assert len(list(destination(project, source.items[-1]).iterdir())) == 3


def test_a_folder_needs_only_what_the_profile_chooses(project: LoadedProject, tmp_path: Path) -> None:
    """The full profile reads refcoco split by unc, not by google."""
    own = tmp_path / "own"
    own.mkdir()
    chosen = {name: data for name, data in refcoco_files().items() if name != "refs(google).p"}
    for name, data in chosen.items():
        (own / name).write_bytes(data)
    run(project, refcoco(), own)
    folder = project.path("data/refer/refcoco")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == chosen


def test_images_need_only_be_those_that_the_annotations_name(project: LoadedProject, tmp_path: Path) -> None:
    """Without any annotations all of train2014 is expected, see ``test_images_are_counted``."""
    data_root(project.path("data/refer"), instances=INSTANCES)
    source = find("data", "coco-train2014")
    own = tmp_path / "train2014"
    own.mkdir()
    for number in (9, 5, 6):
        (own / f"COCO_train2014_{number:012d}.jpg").write_bytes(b"%d" % number)
    run(project, source, own)
    folder = destination(project, source.items[0])
    assert len(list(folder.iterdir())) == 3
    (own / f"COCO_train2014_{6:012d}.jpg").unlink()
    said = refused(project, source, own)
    assert said.endswith("found 2 files of it, and not COCO_train2014_000000000006.jpg, which the profile needs")


def test_phrasecut_takes_the_folder_of_its_authors(project: LoadedProject, tmp_path: Path) -> None:
    source = small("data", "phrasecut", phrasecut_contents())
    own = tmp_path / "VGPhraseCut_v0"
    (own / "images").mkdir(parents=True)
    (own / "refer_test.json").write_bytes(phrasecut_files()["refer_test.json"])
    for number in (11, 22, 33, 44):
        (own / "images" / f"{number}.jpg").write_bytes(b"%d" % number)
    assert "and not image_data_split3000.json, which the profile needs" in refused(project, source, own)
    (own / "image_data_split.json").write_bytes(phrasecut_files()["image_data_split3000.json"])
    run(project, source, own)
    annotations = destination(project, source.items[0])
    assert files_below(annotations) == {"image_data_split3000.json", "refer_test.json"}, "the profile has no val"
    folder = destination(project, source.items[-1])
    assert {path.name for path in folder.iterdir()} == {"11.jpg", "22.jpg", "44.jpg"}


@pytest.mark.parametrize("top", ["", "VGPhraseCut_v0/", "data/VGPhraseCut_v0/"])
@pytest.mark.parametrize("listed", ["image_data_split3000.json", "image_data_split.json"])
def test_only_what_is_needed_is_picked_from_the_zip_of_phrasecut(
    project: LoadedProject, tmp_path: Path, top: str, listed: str
) -> None:
    files = {name: data for name, data in phrasecut_files().items() if name != "image_data_split3000.json"}
    files[listed] = phrasecut_files()["image_data_split3000.json"]
    own = tmp_path / "phrasecut (1).zip"
    own.write_bytes(zipped({f"{top}{name}": data for name, data in files.items()}))
    source = small("data", "phrasecut", phrasecut_contents())
    run(project, source, own)
    folder = destination(project, source.items[0])
    wanted = ("image_data_split3000.json", "refer_val.json", "refer_test.json")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: phrasecut_files()[name] for name in wanted
    }


def test_a_zip_with_both_names_of_the_list_and_one_without_it(project: LoadedProject, tmp_path: Path) -> None:
    source = small("data", "phrasecut", phrasecut_contents())
    for order in (1, -1):
        files = list({**phrasecut_files(), "image_data_split.json": b"[]"}.items())[::order]
        (tmp_path / "own.zip").write_bytes(zipped(dict(files)))
        run(project, source, tmp_path / "own.zip")
        listed = destination(project, source.items[0]) / "image_data_split3000.json"
        assert listed.read_bytes() == phrasecut_files()["image_data_split3000.json"]
        shutil.rmtree(listed.parent)
        record_of(project, source.items[0]).unlink()
    (tmp_path / "own.zip").write_bytes(zipped({"refer_val.json": b"[1]", "refer_test.json": b"[2]"}))
    said = refused(project, source, tmp_path / "own.zip")
    assert "it lacks 1 of 3 files (the first image_data_split3000.json)" in said


@pytest.mark.parametrize(
    "name",
    ["../out", "/out", "refcoco/../../out", "refcoco/..", "C:\\out", "a\\..\\..\\out", "c:out", "refcoco/../../../x"],
)
def test_no_path_leaves_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    project = full_project(tmp_path / "deep/er")
    data = zipped({"refcoco/instances.json": b"{}", name: b"evil"})
    with FileServer({"refcoco.zip": data}) as server:
        source = small("data", "refcoco", {"refcoco.zip": data}, server.url(""))
        assert "nothing was unpacked" in refused(project, source)
    assert files_below(tmp_path) == {"deep/er/params.yaml"}
    assert not Path("/out").exists()


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(FetchError, match="is a link or a device; nothing was unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out", (), None, lambda n: None)
    assert not (tmp_path / "out").exists()


def test_a_file_that_differs_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"top/a": b"new", "top/b/c": b"more"}))
    folder = tmp_path / "out"
    assert unpack(tmp_path / "a.zip", folder, ("top",), None, lambda n: None) == 2
    assert files_below(folder) == {"a", "b/c"}
    (folder / "a").write_bytes(b"old")
    with pytest.raises(FetchError, match=r"out/a: another file than the archive's stands there"):
        unpack(tmp_path / "a.zip", folder, ("top",), None, lambda n: None)
    assert (folder / "a").read_bytes() == b"old"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: data.replace(b"word", b"WORD"), lambda data: b""]
)
def test_a_damaged_archive_is_one_error_and_no_half_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:  # stored, so that a changed byte reaches the checksum
        archive.writestr("a", b"word" * 1000)
    (tmp_path / "a.zip").write_bytes(damage((tmp_path / "a.zip").read_bytes()))
    with pytest.raises(FetchError, match=r"a\.zip: not a zip file that can be read"):
        unpack(tmp_path / "a.zip", tmp_path / "out", (), None, lambda n: None)
    assert not files_below(tmp_path / "out")


def test_an_archive_that_unfolds_to_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    """A thousand times its bytes, as deflate allows; a text that shrinks to a tenth is unpacked."""
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(zipped({f"{n}.json": bytes(1 << 24) for n in range(8)}))
    with pytest.raises(FetchError, match=r"would unfold to 134,217,728, more than 100 times .*nothing was unpacked"):
        unpack(bomb, tmp_path / "out", (), None, lambda size: None)
    assert not (tmp_path / "out").exists()
    text = tmp_path / "text.zip"
    text.write_bytes(zipped({"a.json": b"".join(b"%d," % n for n in range(200_000))}))
    assert unpack(text, tmp_path / "out", (), None, lambda size: None) == 1
