"""glimpse fetch: what is there already, licences, the user's own files, a package, and the commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.project import LoadedProject
from pipeline.setup import sources
from pipeline.setup.download import FetchError
from pipeline.setup.fetch import fetch
from pipeline.setup.holdings import recorded
from pipeline.setup.sources import SOURCES, destination, find
from tests.helpers.fetch_sources import (
    DATA,
    clip,
    files_below,
    full_project,
    phrasecut_contents,
    refcoco,
    refcoco_files,
    refcoco_zip,
    refused,
    run,
    sha,
    small,
    zipped,
)
from tests.helpers.file_server import FileServer
from tests.helpers.profile import ROOT
from tests.pipeline.test_layers import imported

pytestmark = pytest.mark.usefixtures("only_this_machine")


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
    digest = sha(contents["VGPhraseCut_v0.zip"])
    assert any(f"VGPhraseCut_v0.zip: sha256 {digest}, could NOT be verified" in line for line in said)
    assert any("VGPhraseCut_v0.zip: no size is published, from" in line for line in said)
    assert any("it was not verified from here" in line for line in said)
    item = source.items[0]
    record = project.path("data/refer/VGPhraseCut_v0.zip.sha256")
    assert record.read_text() == f"{digest}  VGPhraseCut_v0.zip\n"
    assert recorded(project, item) == digest
    assert any("VGPhraseCut_v0.zip is unpacked already" in line for line in run(project, source))
    (destination(project, item) / "refer_val.json").unlink()
    (tmp_path / "VGPhraseCut_v0.zip").write_bytes(zipped({"refer_val.json": b"[7]"}))
    said_again = refused(project, source, tmp_path / "VGPhraseCut_v0.zip")
    assert f"expected sha256 {digest}, recorded in {record}" in said_again
    assert not (destination(project, item) / "refer_val.json").exists()


def test_a_file_of_another_size_is_refused_where_no_digest_is_known(project: LoadedProject, tmp_path: Path) -> None:
    contents = phrasecut_contents()
    (tmp_path / "VGPhraseCut_v0.zip").write_bytes(contents["VGPhraseCut_v0.zip"])
    source = small("data", "phrasecut", contents)
    run(project, source, tmp_path / "VGPhraseCut_v0.zip")
    size = len(contents["images.zip"])
    (tmp_path / "images.zip").write_bytes(contents["images.zip"][: size * 9 // 10])
    message = refused(project, source, tmp_path / "images.zip")
    assert f"{size * 9 // 10:,} bytes where about {size:,} are expected; it is cut short, or another file" in message


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
    """Only ``pipeline/setup/download.py`` opens a connection, and only ``fetch`` uses it."""
    network = {"urllib.request", "http.client", "requests", "httpx", "socket", "aiohttp", "huggingface_hub", "gdown"}
    users = set()
    for path in [p for package in ("pipeline", "stages", "store") for p in (ROOT / package).rglob("*.py")]:
        names = imported(path)
        if names & network:
            assert path == ROOT / "pipeline/setup/download.py"
        if "pipeline.setup.download.download" in names:
            users.add(path.relative_to(ROOT).as_posix())
    assert users == {"pipeline/setup/fetch.py"}
