"""The lock of a folder: one works, others wait or say who holds it; nothing that a killed process left is believed."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from store.errors import BusyError
from store.locks import locked
from tests.helpers.busy import holding


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_who_holds_it_is_said(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        with pytest.raises(BusyError) as told, locked(tmp_path):
            pass
        assert (
            f"{tmp_path}: another process writes here: process {other.pid} on {socket.gethostname()}, since 2"
            in str(told.value)
        )
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} \(-c ", str(told.value))
        assert "GLIMPSE_WAIT=" in str(told.value)
    with locked(tmp_path):  # it was killed: the system freed the lock, and its file is overwritten
        assert json.loads((tmp_path / ".holder").read_text())["process"] == os.getpid()
    assert files(tmp_path) == {".lock"}


@pytest.mark.parametrize("said", [None, "", "[]", "{", '{"process": 1}', "killed"])
def test_a_holder_that_is_not_known_is_not_invented(tmp_path: Path, said: str | None) -> None:
    with holding(tmp_path):
        file = tmp_path / ".holder"
        if said == "killed":
            file.write_text(json.dumps({**json.loads(file.read_text()), "process": 2**22 + 1}))
        elif said is None:
            file.unlink()
        else:
            file.write_text(said)
        with pytest.raises(BusyError, match="one that has not said who it is"), locked(tmp_path):
            pass


def test_the_second_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holding(tmp_path, 0.5) as other:
        with locked(tmp_path, wait=60):
            assert other.wait(60) == 0
        assert f"waits for process {other.pid} on" in capsys.readouterr().err


def test_waiting_ends(tmp_path: Path) -> None:
    with (
        holding(tmp_path),
        pytest.raises(BusyError, match=r"and still does after 0\.2 s: process"),
        locked(tmp_path, wait=0.2),
    ):
        pass


def test_the_holder_may_take_it_again_another_thread_may_not(tmp_path: Path) -> None:
    def take() -> None:
        try:
            with locked(tmp_path):
                taken.append("taken")
        except BusyError:
            taken.append("busy")

    taken: list[str] = []
    with locked(tmp_path):
        with locked(tmp_path):
            take()
        assert ".holder" in files(tmp_path)  # the inner block released nothing
        for _ in range(2):
            thread = threading.Thread(target=take)
            thread.start()
            thread.join()
    take()
    assert taken == ["taken", "busy", "busy", "taken"]
    assert files(tmp_path) == {".lock"}


def test_many_threads_work_one_after_another(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with locked(tmp_path, wait=60):
            inside.append(number)
            assert inside == [number]
            inside.remove(number)
            done.append(number)

    done: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(6))
