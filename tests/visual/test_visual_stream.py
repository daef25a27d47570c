"""Many images at once, and reading ahead: the same as one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.device.prefetch import AHEAD, prefetch
from stages.visual.encoder import MaskedClip
from stages.visual.mask_encoder import Scene
from tests.helpers.visual_oracles import RESNET, VIT, clip_of, random_model, relative


def scenes(counts: list[int]) -> list[tuple[Image.Image, Any, Any]]:
    """Images of different sizes with these numbers of masks, one of which is empty."""
    rng = np.random.default_rng(4)
    made = []
    for image, count in enumerate(counts):
        height, width = 30 + 7 * image, 50 - 4 * image
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        corners = np.sort(rng.random((count, 2, 2)), axis=1) * [width, height]
        masks = rng.random((count, height, width)) < np.linspace(0, 1, count)[:, None, None]
        made.append((picture, masks, corners.reshape(count, 4)))
    return made


@pytest.mark.parametrize(("vision", "options"), [(VIT, {}), (RESNET, {}), (VIT, {"preprocess": "clip"})])
def test_many_images_at_once_are_one_by_one(vision: dict[str, Any], options: dict[str, Any]) -> None:
    model = random_model(vision)
    given = scenes([4, 0, 7, 1])
    for batch, together in ((64, None), (3, None), (64, 1), (5, 3), (1, 2)):
        clip = clip_of(model, batch=batch, **options)
        found = clip.encode_images(iter(given), [3, 1], together=together)
        assert len(found) == len(given)
        for one, (image, masks, boxes) in zip(found, given, strict=True):
            assert one.local is not None
            np.testing.assert_array_equal(one.reaches_grid, clip.reaches_grid(masks))
            assert relative(one.local, clip.local_features(image, masks, boxes)) < 1e-6
            for k, features in clip.global_features_by_k(image, masks, [1, 3]).items():
                assert features.shape == one.by_k[k].shape == (len(masks), clip.dim)
                assert relative(one.by_k[k], features) < 1e-6


def test_only_what_is_asked_for() -> None:
    clip = clip_of(random_model(VIT))
    given = scenes([3, 2])
    assert all(one.local is None and set(one.by_k) == {2} for one in clip.encode_images(given, [2], local=False))
    assert all(one.local is not None and not one.by_k for one in clip.encode_images(given, []))
    assert clip.encode_images([], [1]) == []


def test_images_resized_ahead_are_the_same() -> None:
    clip = clip_of(random_model(VIT))
    image, masks, boxes = scenes([3])[0]
    whole, resized = (clip.encode_images([(i, masks, boxes)], [2])[0] for i in (image, clip.shrink(image)))
    np.testing.assert_array_equal(whole.by_k[2], resized.by_k[2])
    assert whole.local is not None
    np.testing.assert_array_equal(whole.local, resized.local)


def test_images_are_taken_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator may hold one image: the last must be done with when the next is asked for."""
    clip, prepared = clip_of(random_model(VIT), batch=2), 0
    plain = MaskedClip.prepare

    def counted(self: MaskedClip, image: Any) -> Any:
        nonlocal prepared
        prepared += 1
        return plain(self, image)

    def given() -> Iterator[Scene]:
        for taken, scene in enumerate(scenes([1, 5, 2, 3])):
            assert prepared == taken
            yield scene

    monkeypatch.setattr(MaskedClip, "prepare", counted)
    assert len(clip.encode_images(given(), [1])) == 4


# Reading ahead.


def test_ahead_is_map_in_threads() -> None:
    names = set()

    def work(value: int) -> int:
        names.add(threading.current_thread().name)
        time.sleep(0.003 * (value % 3))
        return value * value

    assert list(prefetch(work, range(12))) == [v * v for v in range(12)]
    assert threading.current_thread().name not in names
    assert list(prefetch(work, [])) == []


def test_ahead_raises_in_turn() -> None:
    results = prefetch(lambda value: 6 // value, [3, 2, 0, 1])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_ahead_is_no_further_than_it_says() -> None:
    begun: list[int] = []
    results = prefetch(lambda value: begun.append(value), range(50))
    for taken in range(5):
        next(results)
        assert len(begun) <= taken + 1 + AHEAD
    results.close()  # type: ignore[attr-defined]
    assert len(begun) < 10
