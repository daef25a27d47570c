"""Both boxes of masks, and the annotated objects as proposals, against plain loops over dense masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from stages.proposals.boxes import RULES, boxes_by_rule
from store.segmentation import encode
from tests.helpers.proposal_files import BROKEN, NAMES, WITH_GAP, Mask, Project, check, plain_box, rectangle


def test_both_boxes_differ_for_a_mask_with_a_gap() -> None:
    assert plain_box(WITH_GAP, "tight") == [0, 0, 8, 6]
    assert plain_box(WITH_GAP, "reference") == pytest.approx([8 / 3 - 1.5, -0.5, 8 / 3 + 1.5, 5.5])


@given(masks=arrays(np.bool_, st.tuples(st.integers(0, 4), st.integers(1, 7), st.integers(1, 7))))
def test_boxes_from_run_lengths_are_those_of_dense_masks(masks: Mask) -> None:
    import torch

    from stages.proposals.decode import mask_boxes

    masks = masks[masks.any((1, 2))]
    found = boxes_by_rule(encode(masks), *masks.shape[1:])
    for rule in RULES:
        assert found[rule].shape == (len(masks), 4)
        np.testing.assert_array_equal(found[rule], mask_boxes(torch.from_numpy(masks), rule).numpy())
        plain = [plain_box(mask, rule) for mask in masks]
        np.testing.assert_allclose(found[rule], np.reshape(plain, (-1, 4)), atol=1e-5)


def test_boxes_of_masks_with_runs_of_no_pixel() -> None:
    """Some writers leave them in: 3 outside, 0 inside, 2 outside, 4 inside."""
    counts = coco.frPyObjects({"size": [4, 5], "counts": [3, 0, 2, 4, 11]}, 4, 5)["counts"]
    boxes = boxes_by_rule([counts], 4, 5)
    assert boxes["tight"].tolist() == [[1, 0, 3, 4]]
    assert boxes["reference"].tolist() == [[0.5, -0.5, 2.5, 3.5]]


@pytest.mark.parametrize("rule", RULES)
def test_instances_are_the_annotated_objects_in_their_order(tmp_path: Path, rule: str) -> None:
    drawn = {0: [rectangle(5, 0, 9, 6), WITH_GAP, rectangle(0, 0, 1, 1)], 3: [rectangle(1, 1, 3, 2, (4, 5))]}
    project = Project(tmp_path, {**drawn, BROKEN: [WITH_GAP]})
    table, summary = project.propose(source="instances", box=rule, max_proposals=1)
    for image in range(len(NAMES)):
        check(table, image, [(mask, 1.0) for mask in drawn.get(image, [])], rule)
    nothing = "no annotated object"
    assert table["status"] == ["", nothing, nothing, "", nothing, "no such file"]
    assert not project.file.exists(), "no input is read"
    assert summary.wrote == {"proposals": 4}
