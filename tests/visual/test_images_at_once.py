"""Stage embed_masks in threads: what the package has, several images at once; what an extension adds, one image at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.views.registry import VIEWS, MaskVectors, View, one_by_one
from stages.visual.compute import embedder
from store.images import open_image
from store.registry import PACKAGE
from store.segmentation import encode
from tests.helpers.visual_oracles import VIT, clip_of, random_model

IMAGES, MASKS = 9, 3


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def tables(folder: Path) -> tuple[Any, Any]:
    """What is read of index and proposals, of images of noise; the last one is not there."""
    rng = np.random.default_rng(2)
    names, digests, masks = [f"{n}.png" for n in range(IMAGES)], [], []
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name)
        digests.append(open_image(folder, name)[0])
        masks += encode(rng.random((MASKS, 40, 50)) < 0.5)
    (folder / names[-1]).unlink()
    index = {"image_name": names, "image_digest": digests, "image_size": np.array([[40, 50]] * IMAGES)}
    offsets = np.arange(0, len(masks) + 1, MASKS)
    return index, {"image_offsets": offsets, "mask": masks, "box": np.tile(np.float32([5, 5, 45, 35]), (len(masks), 1))}


def embedded(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> tuple[list[Any], set[str], set[int]]:
    """Results of all images by a view of ``module``, the threads that computed them, and torch's in each."""
    names, shares = set(), set()

    def features(encoder: Any, image: Any, masks: Any, boxes: Any) -> MaskVectors:
        names.add(threading.current_thread().name)
        shares.add(torch.get_num_threads())
        return MaskVectors(encoder.local_features(image, masks, boxes), np.zeros(len(masks), np.bool_), "")

    record = View(name="ours", module=module, meaning="", labels=lambda _: {"ours": {}}, open=one_by_one(features))
    monkeypatch.setitem(VIEWS._records, "ours", record)
    compute = embedder(clip_of(random_model(VIT)), {"ours": ("ours", {})}, *tables(folder), folder, "cpu")
    return compute(range(IMAGES), ("ours",)), names, shares


@pytest.mark.usefixtures("four_threads")
def test_an_extensions_view_has_one_image_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, names, shares = embedded(tmp_path, monkeypatch, "stages.views.ours")
    assert len(names) > 1
    assert (threading.current_thread().name in names, shares) == (False, {1})
    in_turn, names, shares = embedded(tmp_path, monkeypatch, f"{PACKAGE}.views.ours")
    assert (names, shares) == ({threading.current_thread().name}, {4})
    for one, other in zip(at_once, in_turn, strict=True):
        np.testing.assert_allclose(one.items["ours"]["feature"], other.items["ours"]["feature"], rtol=1e-4, atol=1e-5)
    assert [result.transient for result in at_once] == [False] * (IMAGES - 1) + [True]
    assert at_once[-1].items["ours"]["degenerate"].all()
