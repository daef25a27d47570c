"""Pixels, masks on the grid, crops and boxes: values against plain oracles and torchvision."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as reference

from stages.device.transfer import to_device
from stages.visual.encoder import MaskedClip
from stages.visual.preprocess import Preprocess, crop_windows, degenerate_boxes
from tests.helpers.visual_oracles import (
    GRID,
    SIDE,
    VIT,
    Array,
    H,
    W,
    normalised,
    random_model,
    resized,
    some_boxes,
    some_image,
    some_masks,
)

image = pytest.fixture(scope="module")(some_image)
masks = pytest.fixture(scope="module")(some_masks)
boxes = pytest.fixture(scope="module")(some_boxes)


def test_fill(image: Image.Image, masks: Array, boxes: Array) -> None:
    windows = crop_windows(boxes, H, W)
    for fill, colour in (("reference", [0.485, 0.456, 0.406]), ("mean", [0.0, 0.0, 0.0])):
        preprocess = Preprocess((0.1, 0.2, 0.3), (1.0, 0.9, 0.8), False, 60, fill)  # type: ignore[arg-type]
        source = preprocess.source_view(preprocess.prepare(image, torch.device("cpu")))
        views = preprocess.local_views(source, masks, windows, (8, 8)).numpy()
        np.testing.assert_allclose(views[6], np.broadcast_to(np.array(colour)[:, None, None], (3, 8, 8)), rtol=1e-6)
        # the full mask has no fill at all
        expected = resized(source[:, :39, :49], (8, 8))
        np.testing.assert_allclose(views[2], expected, atol=1e-5)


def test_boxes_are_truncated_clamped_and_widened() -> None:
    boxes = np.array(
        [[9.5, 4.5, 44.9, 29.5], [-0.5, 3, 0.5, 9], [4, -0.5, 9, 0.5], [-9, -9, 99, 99], [50, 40, 60, 60], [7, 8, 3, 2]]
    )  # fmt: skip
    windows = [[9, 4, 44, 29], [0, 3, 1, 9], [4, 0, 9, 1], [0, 0, 50, 40], [49, 39, 50, 40], [7, 8, 8, 9]]
    np.testing.assert_array_equal(crop_windows(boxes, H, W), windows)
    np.testing.assert_array_equal(degenerate_boxes(boxes, H, W), [False, True, True, False, True, True])
    assert crop_windows(np.zeros((0, 4)), H, W).shape == (0, 4)
    assert degenerate_boxes(np.zeros((0, 4)), H, W).shape == (0,)


@given(st.lists(st.tuples(*[st.floats(-20, 70, width=32)] * 4), min_size=1, max_size=5))
def test_every_window_holds_a_pixel(rows: list[tuple[float, float, float, float]]) -> None:
    windows = crop_windows(np.array(rows), H, W)
    for row, (left, top, right, bottom), widened in zip(
        rows, windows, degenerate_boxes(np.array(rows), H, W), strict=True
    ):
        assert 0 <= left < right <= W
        assert 0 <= top < bottom <= H
        x1, y1, x2, y2 = (min(max(int(v), 0), size) for v, size in zip(row, (W, H, W, H), strict=True))
        assert widened == (x2 <= x1 or y2 <= y1)
        if not widened:
            assert (left, top, right, bottom) == (x1, y1, x2, y2)


# Preprocessing.


def test_clip_preprocessing_antialiases_and_takes_the_models_statistics(image: Image.Image, masks: Array) -> None:
    model = random_model(VIT)
    model.visual.image_mean, model.visual.image_std = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    clip = MaskedClip(model, open_clip.SimpleTokenizer(), "clip", short_side=60)
    tensor = normalised(image, (0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    prepared = clip.prepare(image)
    torch.testing.assert_close(prepared.tensor, tensor)
    for got, expected in (
        (clip.pixels.global_view(prepared, (SIDE, SIDE))[0], reference.resize(tensor, [SIDE, SIDE])),
        (clip.pixels.source_view(prepared), reference.resize(tensor, [H, W])),
        (
            clip.pixels.grid_masks(masks, (GRID, GRID), 2, torch.device("cpu")),
            reference.resize(torch.from_numpy(masks).float(), [GRID, GRID]),
        ),
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_clip_preprocessing_without_statistics_is_openais(image: Image.Image) -> None:
    clip = MaskedClip(random_model(VIT), open_clip.SimpleTokenizer(), "clip", short_side=60)
    expected = normalised(image, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    torch.testing.assert_close(clip.prepare(image).tensor, expected)


@pytest.mark.parametrize("size", [(33, 57), (57, 33), (20, 20), (61, 90), (5, 300)])
def test_short_side(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    prepared = Preprocess((0.0,) * 3, (1.0,) * 3, False, 20, "mean").prepare(image, torch.device("cpu"))
    short, long = min(size), max(size)
    assert sorted(prepared.tensor.shape[1:]) == sorted([20, int(20 * long / short)])
    assert (prepared.width, prepared.height) == size
    torch.testing.assert_close(prepared.tensor, reference.to_tensor(reference.resize(image, [20])))


def test_a_cpu_shares_the_memory_of_what_is_moved_to_it() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    moved = to_device(values, "cpu")
    values[0, 0] = 7
    assert moved.dtype == torch.float32
    np.testing.assert_array_equal(moved.numpy(), values)
    assert to_device(moved, torch.device("cpu")) is moved


def test_what_goes_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: the calls that would be made."""
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **how: calls.append((device, how)) or self)
    to_device(np.zeros(3), "cuda:1")
    assert calls == ["pinned", ("cuda:1", {"non_blocking": True})]
