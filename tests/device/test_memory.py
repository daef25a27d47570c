"""Passes that shrink where memory is full, against a device on which so many rows fit and no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.runner import device_peak_bytes
from stages import embed_text
from stages.device.memory import rows_for, shrinking
from stages.text.encoder import TextEncoder
from store.errors import ParameterError
from store.units import Result

MODELS = Path(__file__).parents[2] / "demo" / "models"


class Encoder:
    """Doubles its inputs, ``batch`` at a time, in a memory for ``room`` rows."""

    def __init__(self, batch: int, room: int) -> None:
        self.batch, self.room = batch, room
        self.passes: list[int] = []

    def compute(self, inputs: Sequence[int], kinds: tuple[str, ...]) -> list[Result]:
        found = []
        for start in range(0, len(inputs), self.batch):
            rows = inputs[start : start + self.batch]
            self.passes.append(len(rows))
            if len(rows) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory.\nA long story.")
            found += [Result({kind: {"doubled": np.array([2 * row])} for kind in kinds}) for row in rows]
        return found


@pytest.mark.parametrize(("batch", "room", "fits"), [(64, 64, 64), (64, 9, 8), (64, 1, 1), (100, 30, 25), (3, 2, 1)])
def test_passes_shrink_until_they_fit_and_stay_so(batch: int, room: int, fits: int) -> None:
    encoder = Encoder(batch, room)
    compute = shrinking(encoder.compute, encoder, "cuda")
    for _ in range(2):
        encoder.passes.clear()
        found = compute(range(70), ("x",))
        assert [int(result.items["x"]["doubled"][0]) for result in found] == [2 * row for row in range(70)]
        assert encoder.batch == fits
    assert max(encoder.passes) <= fits, "a unit later no pass is tried in vain"
    assert sum(encoder.passes) == 70


def test_a_row_that_does_not_fit_is_said() -> None:
    encoder = Encoder(8, 0)
    with pytest.raises(ParameterError, match=r"GLIMPSE_DEVICE: .*'cuda:1' is full \(CUDA out of memory\.\); free"):
        shrinking(encoder.compute, encoder, "cuda:1")([1], ("x",))
    assert encoder.passes == [1] * 4, "8, 4, 2 and 1 at most"


def test_other_errors_pass() -> None:
    def broken(inputs: Sequence[Any], kinds: tuple[str, ...]) -> list[Result]:
        raise ValueError("another")

    with pytest.raises(ValueError, match="another"):
        shrinking(broken, Encoder(4, 4), "cuda")([1], ())


def test_the_stage_of_texts_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tried = TextEncoder.encode, []

    def full(self: TextEncoder, strings: Sequence[str]) -> Any:
        tried.append(self.batch)
        if self.batch > 16:
            raise torch.OutOfMemoryError("full")
        return plain(self, strings)

    params = embed_text.Params(model=str(MODELS / "refshapes_clip.json"))
    strings, weights = ["a red disc", "a blue box"], MODELS / "refshapes_clip.safetensors"
    expected = embed_text.embedder(params, weights, 16, "cpu")(strings, ("text",))
    monkeypatch.setattr(TextEncoder, "encode", full)
    found = embed_text.embedder(params, weights, None, "cpu")(strings, ("text",))
    assert tried == [64, 32, 16]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.items["text"]["feature"], other.items["text"]["feature"])


def test_rows_where_nobody_says_how_many() -> None:
    assert (rows_for("cpu", None), rows_for("cpu", 7), rows_for("cuda:1", None), rows_for("cuda", 3)) == (64, 7, 512, 3)


def test_the_peak_of_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {"cuda:1": 123}[device])
    assert device_peak_bytes("cuda:1") == 123
    assert device_peak_bytes("cpu") == 0
