"""RefShapes' scenes: seeds that never meet, what a scene promises, and outlines of its masks."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

import demo
from demo import scenes
from demo.outlines import boundary_loops, segmentation
from demo.scenes import draw_scene, evaluation_rng, training_rng


def decoded(annotation: dict[str, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    parts = annotation["segmentation"]
    rle = coco_mask.frPyObjects(parts, height, width)
    return np.asarray(coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle), dtype=np.bool_)


# --- seeds


def test_no_evaluation_scene_is_a_training_scene() -> None:
    def digests(rng_of: Any, seeds: tuple[int, ...]) -> set[bytes]:
        drawn = (draw_scene(rng_of(i, seed)).image for seed in seeds for i in range(25))
        return {hashlib.sha256(image.tobytes()).digest() for image in drawn}

    evaluation, training = digests(evaluation_rng, (0, 1)), digests(training_rng, (0, 1, 1_000_000))
    assert len(evaluation) == 50
    assert len(training) == 75
    assert not evaluation & training


def test_the_generators_of_many_seeds_all_differ() -> None:
    """Same-length seed words below 2**32 that differ give different states: no index of one namespace meets another."""
    words = [0, 1, 2, 77, 2**31, 2**32 - 1]
    states = [
        rng_of(i, s).bit_generator.state["state"]["state"]
        for rng_of in (evaluation_rng, training_rng)
        for i in words
        for s in words
    ]
    assert len(set(states)) == 2 * len(words) ** 2
    assert scenes.EVAL_SEED != scenes.TRAIN_SEED
    assert max(scenes.EVAL_SEED, scenes.TRAIN_SEED) < 2**32


def test_only_the_benchmark_draws_evaluation_scenes() -> None:
    """What trains or measures the models imports nothing that could draw an evaluation scene."""
    sources = {path.stem: ast.parse(path.read_text()) for path in Path(demo.__file__).parent.glob("*.py")}
    users = {
        name
        for name, tree in sources.items()
        for node in ast.walk(tree)
        if {getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None)}
        & {"evaluation_rng", "EVAL_SEED"}
    }
    assert users == {"scenes", "refshapes"}


# --- scenes


def test_scenes_keep_their_promises() -> None:
    split_masks = hidden = 0
    for index in range(60):
        scene = draw_scene(training_rng(index, seed=7))
        assert 3 <= len(scene.objects) <= 7
        total = np.zeros((scene.image.height, scene.image.width), dtype=int)
        for number, item in enumerate(scene.objects):
            assert item.mask.shape == total.shape
            total += item.mask
            rows, columns = np.nonzero(item.mask)
            assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert item.centre == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))
            assert scenes.MIN_VISIBLE <= item.visible <= 1
            assert (item.visible < 1) == bool(item.hidden_by)
            assert all(number < front < len(scene.objects) for front in item.hidden_by)
            hidden += bool(item.hidden_by)
            split_masks += len([loop for loop in boundary_loops(item.mask) if area_of(loop) > 30]) > 1
        assert total.max() == 1
    assert hidden > 20
    assert split_masks > 3


def test_a_scene_is_a_function_of_its_generator_and_takes_a_size() -> None:
    first, second = (draw_scene(training_rng(3), size=(300, 260)) for _ in range(2))
    assert first.image.size == (300, 260)
    assert first.image.tobytes() == second.image.tobytes()
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.objects, second.objects))


# --- outlines


def area_of(loop: list[tuple[int, int]]) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(loop, loop[1:] + loop[:1])) / 2


def pieces(mask: np.ndarray[Any, Any]) -> int:
    """Number of 4-connected pieces, by a plain flood."""
    left, count = {(int(y), int(x)) for y, x in np.argwhere(mask)}, 0
    while left:
        count, queue = count + 1, [left.pop()]
        while queue:
            y, x = queue.pop()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    queue.append(near)
    return count


small_masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0, 1)).map(
    lambda spec: np.random.default_rng(spec[2]).random(spec[:2]) < spec[3]
)


@given(small_masks)
def test_loops_enclose_exactly_the_mask(mask: np.ndarray[Any, Any]) -> None:
    loops = boundary_loops(mask)
    areas = [area_of(loop) for loop in loops]
    assert sum(areas) == mask.sum()
    assert sum(area > 0 for area in areas) == pieces(mask)
    steps = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for loop in loops for a, b in zip(loop, loop[1:] + loop[:1])]
    assert set(steps) <= {1}


@given(small_masks)
def test_any_mask_survives_as_a_segmentation(mask: np.ndarray[Any, Any]) -> None:
    parts = segmentation(mask)
    read_back = decoded({"segmentation": parts}, *mask.shape)
    if isinstance(parts, dict):
        assert np.array_equal(read_back, mask)
    else:
        assert (read_back & mask).sum() / (read_back | mask).sum() > 0.97


def test_a_hole_makes_run_lengths_and_pieces_make_polygons() -> None:
    mask = np.zeros((60, 70), dtype=np.bool_)
    mask[10:30, 10:30] = True
    mask[40:55, 30:60] = True
    parts = segmentation(mask)
    assert isinstance(parts, list)
    assert len(parts) == 2
    assert np.array_equal(decoded({"segmentation": parts}, 60, 70), mask)
    mask[15:20, 15:20] = False
    assert isinstance(segmentation(mask), dict)
