"""How many rows a pass gets, against a device whose memory is arithmetic."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.memory import MOST, ON_CPU, device_peak_bytes, rows_that_fit, rows_within
from stages.text.encoder import TextEncoder
from tests.visual_oracles import RESNET, TEXT, VIT, clip_of, random_model

MIB = 2**20


class Gpu:
    """torch.cuda for passes of ``rest + rows * per_row`` bytes in ``free`` bytes of memory, beside 5 MiB of weights."""

    def __init__(self, free: int, per_row: int, rest: int) -> None:
        self.free, self.per_row, self.rest, self.held = free, per_row, rest, 5 * MIB
        self.peak = self.held
        self.passes: list[int] = []

    def run(self, rows: int) -> None:
        self.passes.append(rows)
        self.peak = max(self.peak, self.held + self.rest + rows * self.per_row)

    def patched(self, monkeypatch: pytest.MonkeyPatch) -> Gpu:
        for name, answer in {
            "empty_cache": lambda: None,
            "mem_get_info": lambda device: (self.free, 80 * 2**30),
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", self.held),
            "memory_allocated": lambda device: self.held,
            "max_memory_allocated": lambda device: self.peak,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        return self


@pytest.mark.parametrize(
    ("free", "per_row", "rest", "rows"),
    [
        (80 * 2**30, 2 * MIB, 9 * MIB, MOST),
        (1000 * MIB, 5 * MIB, 0, 64),  # 600 MiB for 120 rows
        (1000 * MIB, 5 * MIB, 281 * MIB, 32),  # 319 MiB for 63
        (1000 * MIB, 590 * MIB, 0, 1),
        (1000 * MIB, 2000 * MIB, 0, 1),  # one that does not fit will say so itself
    ],
)
def test_rows_fit_the_free_memory_of_a_gpu(
    free: int, per_row: int, rest: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(free, per_row, rest).patched(monkeypatch)
    assert rows_that_fit(gpu.run, torch.device("cuda")) == rows
    assert max(gpu.passes) <= 16
    assert device_peak_bytes("cuda") == gpu.peak


@given(
    free=st.integers(0, 200 * 2**30), per_row=st.integers(1, 2**30), rest=st.integers(0, 2**33), few=st.integers(1, 64)
)
def test_rows_are_the_most_that_fit(free: int, per_row: int, rest: int, few: int) -> None:
    rows = rows_within(free, rest + few * per_row, rest + 2 * few * per_row, few)
    assert rows.bit_count() == 1
    assert rows <= MOST
    assert rows == 1 or rest + rows * per_row <= 0.6 * free + 1
    assert rows == MOST or rest + 2 * rows * per_row > 0.6 * free - per_row


def test_a_pass_that_grows_by_nothing_gets_the_most() -> None:
    assert rows_within(2**30, 100, 100, 8) == MOST


def test_a_cpu_has_its_own_number_and_tries_nothing() -> None:
    tried: list[int] = []
    assert rows_that_fit(tried.append, torch.device("cpu")) == ON_CPU
    assert not tried
    assert device_peak_bytes("cpu") == 0


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_the_pass_of_masks_that_is_tried_holds_so_many_crops(vision: dict[str, Any]) -> None:
    clip, seen = clip_of(random_model(vision)), []
    encode = clip._backbone.encode

    def counted(views: torch.Tensor) -> torch.Tensor:
        seen.append(views.shape)
        return encode(views)

    clip._backbone.encode = counted  # type: ignore[method-assign]
    clip._pass_of(5)
    assert seen == [(5, 3, *clip._backbone.input_size)]


@pytest.mark.parametrize("plain", [False, True])
def test_the_pass_of_texts_that_is_tried_fills_every_position(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(VIT)
    encoder, seen = TextEncoder(model, open_clip.SimpleTokenizer(), plain=plain), []
    first = model.transformer.resblocks[0]
    first.ln_1.register_forward_hook(lambda layer, given, result: seen.append(given[0].flatten(0, -2).shape))
    encoder._pass_of(3)
    positions = sum(shape[0] for shape in seen)
    assert positions >= 3 * TEXT["context_length"]
    assert encoder._batch == ON_CPU
