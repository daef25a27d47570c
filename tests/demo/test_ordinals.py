"""Expressions that count: true of their target, by counting anew, and of a family that changes no other."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from demo.captions import _SYNONYMS, ordinal
from demo.refshapes import COUNTED, write_benchmark
from demo.scenes import SHAPES, Scene, draw_scene, evaluation_rng

NUMBERS = {"first": 0, "second": 1, "third": 2, "fourth": 3}


def counted(scene: Scene, sentence: str) -> list[int]:
    """Those that the words of the sentence before "from" fit, in the order that it counts in."""
    head, _, place = sentence.removeprefix("the ").partition(" from the ")
    said = head.split()[1:]
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[place]
    fitting = []
    for i, item in enumerate(scene.objects):
        own = {
            word
            for value in (item.shape, item.colour, item.filling, item.size)
            for word in _SYNONYMS.get(value, (value,))
        }
        if set(said) <= own:
            fitting.append(i)
    return sorted(fitting, key=lambda i: sign * scene.objects[i].centre[axis])


@pytest.mark.parametrize("seed", range(12))
def test_the_target_is_the_one_that_is_counted_to(seed: int) -> None:
    made = 0
    for index in range(8):
        scene = draw_scene(evaluation_rng(index, seed))
        for target in range(len(scene.objects)):
            found = ordinal(np.random.default_rng(seed), scene, target)
            if found is None:
                continue
            made += 1
            order = counted(scene, found.sentence)
            number = NUMBERS[found.sentence.removeprefix("the ").split()[0]]
            assert order[number] == target, found.sentence
            assert len(order) > 1
    assert made


def test_the_family_counts_and_is_written_in_the_same_form(tmp_path: Path) -> None:
    counts = write_benchmark(tmp_path / "made", images_per_split=6)
    refs = pickle.loads((tmp_path / "made" / COUNTED / "refs(synth).p").read_bytes())
    assert counts[COUNTED] == len(refs) > 0
    assert {ref["split"] for ref in refs} <= {"val", "testA", "testB"}
    for ref in refs:
        (sentence,) = ref["sentences"]
        assert sentence["sent"].removeprefix("the ").split()[0] in NUMBERS
        assert any(shape in sentence["sent"] for shape in SHAPES)
