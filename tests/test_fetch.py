"""glimpse fetch: what ends where, and that nothing wrong, cut short or hostile ever ends there."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline import fetch as fetching
from pipeline import sources
from pipeline.cli import app
from pipeline.download import FetchError, download
from pipeline.fetch import fetch
from pipeline.holdings import recorded
from pipeline.project import LoadedProject, load_project
from pipeline.sources import SOURCES, Source, destination, find
from pipeline.unpack import unpack
from store.errors import BusyError, DataError, ParameterError
from store.work import locked
from tests.fetch_sources import (
    full_project,
    phrasecut_contents,
    refcoco_files,
    refcoco_zip,
    sha,
    small,
    zipped,
)
from tests.file_server import FileServer
from tests.profile import ROOT
from tests.test_layers import imported

DATA = bytes(range(256)) * 9
"""Contents of a small file."""


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches any other machine."""
    resolve = socket.getaddrinfo

    def guarded(host: Any, *rest: Any, **named: Any) -> Any:
        if host != "127.0.0.1":
            raise socket.gaierror(f"the test asked for {host}")
        return resolve(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def project(tmp_path: Path) -> LoadedProject:
    return full_project(tmp_path)


def run(project: LoadedProject, source: Source, given: Path | None = None, accepted: bool = False) -> list[str]:
    """Fetch; returns what it said."""
    said: list[str] = []
    fetch(project, source, given, accepted, said.append)
    return said


def refused(project: LoadedProject, source: Source, given: Path | None = None, accepted: bool = False) -> str:
    """The one line of the error with which fetching ends."""
    with pytest.raises(FetchError) as error:
        run(project, source, given, accepted)
    assert "\n" not in str(error.value)
    return str(error.value)


def clip(base: str = "http://127.0.0.1:1/", data: bytes = DATA) -> Source:
    return small("weights", "clip", {"ViT-B-32.pt": data}, base)


def files_below(folder: Path) -> set[str]:
    """All files but the lock and the profile."""
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {path for path in paths if not path.endswith(".lock") and path != "params.yaml"}


# The table


def test_table_has_what_the_commands_promise() -> None:
    names = [(source.kind, source.name) for source in SOURCES]
    weights = [("weights", name) for name in ("clip", "clip-rn50", "freesolo", "spacy")]
    data = [("data", name) for name in ("refcoco", "refcoco+", "refcocog", "phrasecut", "coco-train2014")]
    assert names == weights + data
    with pytest.raises(ParameterError, match="nothing is called 'refcoc'; did you mean 'refcoco"):
        find("data", "refcoc")


@pytest.mark.parametrize("profile", ["params.yaml", "demo/params.yaml"])
def test_addresses_are_well_formed_and_destinations_lie_inside_the_project(profile: str) -> None:
    project = load_project(ROOT / profile)
    for source in SOURCES:
        assert source.licence
        for item in source.items:
            parts = urlsplit(item.url)
            assert parts.scheme in ("https", "http")
            assert "." in parts.netloc
            assert not set(parts.netloc) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")
            assert item.url.isascii()
            assert " " not in item.url
            assert item.size > 0
            assert len(item.digest) in (0, 64)
            assert not set(item.digest) - set("0123456789abcdef")
            assert bool(item.digest) == bool(item.digest_from)
            assert destination(project, item).resolve().is_relative_to(ROOT.resolve())
            assert destination(project, item).resolve() != ROOT.resolve()


def test_the_full_profile_finds_what_is_fetched() -> None:
    project = load_project(ROOT / "params.yaml")
    values = project.values
    at = {item.name: destination(project, item) for source in SOURCES for item in source.items}
    assert at["ViT-B-32.pt"] == project.path(values.clip.weights)
    assert at["FreeSOLO_R101_30k_pl.pth"] == project.path(values.propose.input)
    assert at["refcoco+.zip"] == project.path("data/refer/refcoco+")
    assert at["refer_test.json"] == project.path("data/refer/phrasecut/refer_test.json")
    assert at["train2014.zip"].name == "train2014"
    assert at["images.zip"] == at["images2.zip"]
    assert at["images.zip"].name == "phrasecut"


def test_clip_addresses_and_digests_are_those_of_open_clip() -> None:
    spec = find_spec("open_clip")
    assert spec
    assert spec.submodule_search_locations
    text = (Path(spec.submodule_search_locations[0]) / "pretrained.py").read_text()
    for name in ("clip", "clip-rn50"):
        item = find("weights", name).items[0]
        assert f'"{item.url}"' in text
        assert item.url.split("/")[-2] == item.digest


def test_only_phrasecut_and_its_images_have_no_known_digest() -> None:
    unknown = {item.name for source in SOURCES for item in source.items if not item.digest}
    assert unknown == {"image_data_split3000.json", "refer_val.json", "refer_test.json", "images.zip", "images2.zip"}


def test_docs_name_every_command() -> None:
    text = (ROOT / "docs/data.md").read_text()
    for source in SOURCES:
        assert f"`glimpse fetch {source.kind} {source.name}`" in text
        assert all(item.name in text for item in source.items)


# Downloads


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(have=st.integers(0, len(DATA)), ranges=st.booleans(), length=st.booleans(), shift=st.sampled_from([0, 0, 5]))
def test_any_beginning_resumes_to_equal_bytes(
    tmp_path: Path, have: int, ranges: bool, length: bool, shift: int
) -> None:
    part = tmp_path / f"{have}.part"
    part.write_bytes(DATA[:have])
    done: list[int] = []
    with FileServer(
        {"a": DATA}, ranges=ranges, length=length, shift=shift if 0 < have < len(DATA) - 5 else 0
    ) as server:
        download(server.url("a"), part, len(DATA), done.append)
    assert part.read_bytes() == DATA
    assert sum(done) == len(DATA)
    assert server.asked[0] == ("a", f"bytes={have}-" if have else "")


def test_a_part_longer_than_the_file_is_fetched_anew(tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    part.write_bytes(b"x" * (len(DATA) + 1))
    with FileServer({"a": DATA}) as server:
        download(server.url("a"), part, len(DATA), lambda n: None)
    assert part.read_bytes() == DATA


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path, project: LoadedProject) -> None:
    data = os.urandom(1 << 20) * 3 + b"the end"
    source = clip(data=data)
    part = destination(project, source.items[0]).with_name("ViT-B-32.pt.part")
    with FileServer({"ViT-B-32.pt": data}, stall=2 << 20) as server:
        code = "import sys; from pathlib import Path; from pipeline.download import download as d\n"
        code += "d(sys.argv[1], Path(sys.argv[2]), 0, lambda n: None)"
        child = subprocess.Popen([sys.executable, "-c", code, server.url("ViT-B-32.pt"), str(part)], cwd=ROOT)
        while not part.exists() or part.stat().st_size < 2 << 20:
            assert child.poll() is None
            time.sleep(0.02)
        child.kill()
        child.wait()
    with FileServer({"ViT-B-32.pt": data}) as server:
        run(project, clip(server.url(""), data))
    assert server.asked == [("ViT-B-32.pt", f"bytes={2 << 20}-")]
    assert destination(project, source.items[0]).read_bytes() == data
    assert not part.exists()


def test_a_connection_that_ends_early_keeps_what_came(project: LoadedProject) -> None:
    with FileServer({"ViT-B-32.pt": DATA}, cut=1000) as server:
        for end in (1000, 2000):
            assert f"ended after {end:,} of {len(DATA):,} bytes" in refused(project, clip(server.url("")))
        assert not destination(project, clip().items[0]).exists()
        run(project, clip(server.url("")))
    assert destination(project, clip().items[0]).read_bytes() == DATA
    with FileServer({"b": DATA}, cut=1000, length=False) as server, pytest.raises(FetchError, match=r"1,000 of 2,304"):
        download(server.url("b"), project.path("b.part"), len(DATA), lambda n: None)


def test_a_wrong_digest_leaves_nothing_and_the_next_fetch_starts_anew(project: LoadedProject) -> None:
    with FileServer({"ViT-B-32.pt": DATA[:-1] + b"x"}) as server:
        message = refused(project, clip(server.url("")))
        assert f"expected sha256 {sha(DATA)}" in message
        assert f"got {sha(DATA[:-1] + b'x')}" in message
        assert not files_below(project.folder)
        server.files["ViT-B-32.pt"] = DATA
        run(project, clip(server.url("")))
    assert server.asked[-1] == ("ViT-B-32.pt", "")
    assert files_below(project.folder) == {"data/weights/ViT-B-32.pt", "data/weights/ViT-B-32.pt.sha256"}


def test_offline_or_refused_is_one_line_with_the_way_out(
    project: LoadedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        message = refused(project, clip(f"http://127.0.0.1:{closed.getsockname()[1]}/"))
    assert message.startswith("ViT-B-32.pt: OpenAI's model store did not give it: ")
    assert message.endswith(f"glimpse fetch weights clip --params {project.file} --from PATH")
    with FileServer({}) as server:
        assert "it answered 404" in refused(project, clip(server.url("")))
    with FileServer({"ViT-B-32.pt": b"<html>"}, kind="text/html; charset=utf-8") as server:
        assert "a web page came in place of the file" in refused(project, clip(server.url("")))
    kinds = {"freesolo": "the author's Hugging Face repository did", "refcoco": "web.archive.org snapshot of 2022"}
    for name, kind in kinds.items():  # the real table: the guard above stands for a machine without a network
        source = next(source for source in SOURCES if source.name == name)
        assert f": {kind}" in refused(project, source, accepted=True)
    assert not [path for path in files_below(project.folder) if not path.endswith(".part")]


def test_too_little_disk_room_is_said_before_anything_comes(
    project: LoadedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(DATA) - 1))
    with FileServer({"ViT-B-32.pt": DATA}) as server:
        assert "2,304 bytes are needed, 2,303 are free" in refused(project, clip(server.url("")))
    assert not server.asked


def test_a_second_fetch_of_the_same_thing_is_kept_out(project: LoadedProject) -> None:
    with locked(project.path(project.values.work, "fetch", "clip")), pytest.raises(BusyError):
        run(project, clip())


# What is there already


def test_what_is_there_is_left_alone(project: LoadedProject) -> None:
    target = destination(project, clip().items[0])
    target.parent.mkdir(parents=True)
    target.write_bytes(DATA)
    said = run(project, clip())
    assert said[-1] == f"{target}: already there"
    assert f"sha256 {sha(DATA)}, as in its own address" in said[0]
    target.write_bytes(b"mine")
    assert "move it away, then: glimpse fetch weights clip" in refused(project, clip())
    assert target.read_bytes() == b"mine"


def test_an_unverified_digest_is_recorded_and_then_compared(project: LoadedProject, tmp_path: Path) -> None:
    contents = phrasecut_contents()
    with FileServer(contents) as server:
        said = run(project, small("data", "phrasecut", contents, server.url("")))
    source = small("data", "phrasecut", contents)
    digest = sha(contents["refer_val.json"])
    assert any(f"refer_val.json: sha256 {digest}, could NOT be verified" in line for line in said)
    assert any("they were not verified from here" in line for line in said)
    item = source.items[1]
    record = project.path("data/refer/phrasecut/refer_val.json.sha256")
    assert record.read_text() == f"{digest}  refer_val.json\n"
    assert recorded(project, item) == digest
    again = run(project, source)
    assert any(f"{digest}, as recorded in {record}" in line for line in again)
    destination(project, item).unlink()
    (tmp_path / "refer_val.json").write_bytes(b"[7]")
    assert f"expected sha256 {digest}, recorded in {record}" in refused(project, source, tmp_path / "refer_val.json")
    assert not destination(project, item).exists()


def test_a_file_of_another_size_is_refused_where_no_digest_is_known(project: LoadedProject, tmp_path: Path) -> None:
    contents = phrasecut_contents() | {"refer_val.json": b"[" + b" " * 98 + b"]"}
    (tmp_path / "refer_val.json").write_bytes(b" " * 94)
    message = refused(project, small("data", "phrasecut", contents), tmp_path / "refer_val.json")
    assert "94 bytes where about 100 are expected; it is cut short, or another file" in message


# Licences


def test_a_restrictive_licence_must_be_accepted(project: LoadedProject) -> None:
    with FileServer({"FreeSOLO_R101_30k_pl.pth": DATA}) as server:
        source = small("weights", "freesolo", {"FreeSOLO_R101_30k_pl.pth": DATA}, server.url(""))
        said: list[str] = []
        with pytest.raises(FetchError, match="add --accept-license"):
            fetch(project, source, None, False, said.append)
        assert "NVIDIA Source Code License" in said[0]
        assert not server.asked
        run(project, source, accepted=True)
        assert server.asked
        run(project, source)  # it is there: nothing is left to accept
    assert [source.name for source in SOURCES if source.accept] == ["freesolo"]


# --from


@pytest.mark.parametrize("links", [True, False])
def test_a_file_of_the_user_is_linked_or_copied_and_never_moved(
    project: LoadedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError("another file system")))
    own = tmp_path / "downloads" / "ViT-B-32 (1).pt"
    own.parent.mkdir()
    own.write_bytes(DATA)
    alias = tmp_path / "alias.pt"
    alias.symlink_to(own)
    run(project, clip(), alias)
    target = destination(project, clip().items[0])
    assert own.read_bytes() == target.read_bytes() == DATA
    assert not target.is_symlink()
    assert target.samefile(own) == links


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:-5], "2,299 bytes where 2,304 are expected"),
        (b"x" * len(DATA), "expected sha256"),
        (None, "no such file"),
    ],
)
def test_a_truncated_wrong_or_missing_file_is_refused(
    project: LoadedProject, tmp_path: Path, data: bytes | None, message: str
) -> None:
    own = tmp_path / "own.pt"
    if data is not None:
        own.write_bytes(data)
    assert message in refused(project, clip(), own)
    assert files_below(project.folder) == ({"own.pt"} if data else set())


def test_a_folder_of_the_user_is_searched_by_name(project: LoadedProject, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    own.mkdir()
    assert "expected ViT-B-32.pt, or a folder with it, found none" in refused(project, clip(), own)
    (own / "ViT-B-32.pt").write_bytes(DATA)
    run(project, clip(), own)
    assert destination(project, clip().items[0]).read_bytes() == DATA


# Archives


def refcoco(base: str = "http://127.0.0.1:1/") -> Source:
    return small("data", "refcoco", {"refcoco.zip": refcoco_zip()}, base)


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
    assert "found 2 files of it" in refused(project, refcoco(), tmp_path / "own")
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


def test_phrasecut_takes_the_folder_of_its_authors(project: LoadedProject, tmp_path: Path) -> None:
    contents = phrasecut_contents()
    source = small("data", "phrasecut", contents)
    own = tmp_path / "VGPhraseCut_v0"
    (own / "images").mkdir(parents=True)
    for name in ("refer_val.json", "refer_test.json"):
        (own / name).write_bytes(contents[name])
    for number in (11, 22, 33, 44):
        (own / "images" / f"{number}.jpg").write_bytes(b"%d" % number)
    with pytest.raises(DataError, match=r"image_data_split3000\.json: expected PhraseCut's list of images"):
        run(project, source, own)
    (own / "image_data_split.json").write_bytes(contents["image_data_split3000.json"])
    run(project, source, own)
    folder = destination(project, source.items[-1])
    assert {path.name for path in folder.iterdir()} == {"11.jpg", "22.jpg", "44.jpg"}


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


# spaCy


def wheel(name: str, version: str) -> bytes:
    """The smallest wheel that pip installs."""
    info = f"{name}-{version}.dist-info"
    return zipped(
        {
            f"{name}/__init__.py": b"",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: nowhere\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )


def test_a_wheel_is_installed_without_index_and_dependencies(
    project: LoadedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.setenv("PIP_TARGET", str(place))
    monkeypatch.syspath_prepend(str(place))
    name = "en_core_web_lg-3.8.0-py3-none-any.whl"
    data = wheel("en_core_web_lg", "3.8.0")
    with FileServer({name: data}) as server:
        said = run(project, small("weights", "spacy", {name: data}, server.url("")))
        assert said[-1] == "en_core_web_lg 3.8.0 is installed"
        assert (place / "en_core_web_lg" / "__init__.py").is_file()
        assert run(project, find("weights", "spacy")) == ["en_core_web_lg 3.8.0 is installed already"]
    shutil.rmtree(place)
    failed = SimpleNamespace(returncode=1, stderr="error: no\nroom\n")
    monkeypatch.setattr(subprocess, "run", lambda *words, **named: failed)
    assert "pip did not install it: error: no room" in refused(project, small("weights", "spacy", {name: data}))


# The command line


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_project(tmp_path)
    with FileServer({"ViT-B-32.pt": DATA, "refcoco.zip": refcoco_zip()}) as server:
        monkeypatch.setattr(sources, "SOURCES", (clip(server.url("")), refcoco(server.url(""))))
        params = ["--params", str(tmp_path / "params.yaml")]
        for words in (["weights", "clip"], ["data", "refcoco"]):
            done = CliRunner().invoke(app, ["fetch", *words, *params])
            assert done.exit_code == 0, done.output
            assert "there" in done.output or "3 files of refcoco.zip" in done.output
    assert (tmp_path / "data/weights/ViT-B-32.pt").read_bytes() == DATA
    assert files_below(tmp_path / "data/refer/refcoco") == set(refcoco_files())
    done = CliRunner().invoke(app, ["fetch", "weights", "clip", "--from", "nowhere", *params])
    assert done.exit_code == 0, "it is there already"


def test_nothing_else_downloads() -> None:
    """Only ``pipeline/download.py`` opens a connection, and only ``fetch`` uses it."""
    network = {"urllib.request", "http.client", "requests", "httpx", "socket", "aiohttp", "huggingface_hub", "gdown"}
    users = set()
    for path in [p for package in ("pipeline", "stages", "store") for p in (ROOT / package).rglob("*.py")]:
        names = imported(path)
        if names & network:
            assert path == ROOT / "pipeline/download.py"
        if "pipeline.download.download" in names:
            users.add(path.relative_to(ROOT).as_posix())
    assert users == {"pipeline/fetch.py"}
