"""Downloads: equal bytes however often they are interrupted, and nothing wrong or cut short ever in place."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.project import LoadedProject
from pipeline.setup.download import FetchError, download
from pipeline.setup.sources import SOURCES, destination
from store.errors import BusyError
from tests.helpers.busy import holding
from tests.helpers.fetch_sources import (
    DATA,
    clip,
    files_below,
    refused,
    run,
    sha,
)
from tests.helpers.file_server import FileServer
from tests.helpers.profile import ROOT

pytestmark = pytest.mark.usefixtures("only_this_machine")


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
        code = "import sys; from pathlib import Path; from pipeline.setup.download import download as d\n"
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
    with holding(project.path(project.values.work, "fetch", "clip")), pytest.raises(BusyError):
        run(project, clip())
