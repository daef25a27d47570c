"""FreeSOLO at its official size against the released code's numbers (tests/golden/README.md: files, tolerances)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.golden.folder import Folder
from pipeline.golden.proposals import intermediate_error, traced
from stages.proposals.decode import MASK_THRESHOLD, fired_cells, mask_statistics, matrix_nms, soft_masks
from stages.proposals.freesolo import FreeSolo, load_network
from stages.proposals.network import Architecture, Stage

GOLDEN = Path(__file__).parents[1] / "golden"
OFFICIAL = Architecture(
    stem=64,
    stages=(Stage(3, 64, 256), Stage(4, 128, 512), Stage(23, 256, 1024), Stage(3, 512, 2048)),
    pyramid=256,
    tower_width=512,
    tower_depth=4,
    mask_width=128,
    kernel=256,
    classes=2,
)


@pytest.fixture(scope="session")
def golden():
    return Folder(GOLDEN).arrays("freesolo_astronaut.npz")


@pytest.fixture(scope="session")
def state_dict():
    folder = Folder(GOLDEN)
    state_dict = folder.weights.fill(folder.json("freesolo_shapes.json"), folder.weights.SEEDS["freesolo_r101"])
    assert folder.weights.checksum(state_dict) == "2f5bf089"
    return state_dict


@pytest.fixture(scope="session")
def net(state_dict):
    return FreeSolo.from_state_dict(state_dict)


@pytest.fixture(scope="session")
def trace(net):
    """Everything the golden file names, from one forward pass: (name -> array, raw outputs, proposals)."""
    return traced(net, Folder(GOLDEN).image("astronaut"))


TRACED = ("input", "padded", "stem", "res2", "res3", "res4", "res5", "p2", "p3", "p4", "p5", "p6", "mask_pred")
LEVELS = tuple(f"{what}{level}" for what in ("cate_logits", "kernel_pred") for level in range(5))


def test_the_architecture_is_the_official_one(net):
    assert net.network.architecture == OFFICIAL


@pytest.mark.parametrize("name", TRACED + LEVELS)
def test_intermediate(trace, golden, name):
    assert golden[f"sample_{name}"].shape == (256,)
    assert intermediate_error(trace[0][name], golden, name) <= 1e-4


def test_category_logits_kernels_and_mask_features(trace, golden):
    _, raw, _ = trace
    for level, logits in enumerate(raw.category_logits):
        np.testing.assert_allclose(logits[0].numpy(), golden[f"cate_logits{level}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(raw.kernels[0][0, :, ::8, ::8], golden["kernel_pred0_grid8"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(raw.mask_features[0, :, ::40, ::40], golden["mask_pred_grid"], rtol=0, atol=1e-4)


def test_candidates_and_matrix_nms(trace, golden, net):
    """The parts of decoding, each against the numbers before and after it."""
    _, raw, _ = trace
    features = raw.mask_features[0]
    cells = fired_cells([x[0] for x in raw.category_logits], [x[0] for x in raw.kernels], 0.1, net.settings.strides)
    areas, maskness = mask_statistics(cells.kernels, features)
    large = areas > cells.min_areas
    assert int(large.sum()) == golden["n_candidates"]
    scores = cells.scores * maskness
    order = torch.argsort(torch.where(large, scores, -1), descending=True)[: int(large.sum())]
    np.testing.assert_allclose(scores[order], golden["nms_in_scores"], rtol=0, atol=4e-5)
    np.testing.assert_array_equal(cells.classes[order], golden["nms_labels"])
    np.testing.assert_allclose(areas[order], golden["nms_in_sum_masks"], rtol=0, atol=3)
    binary = soft_masks(cells.kernels[order], features) > MASK_THRESHOLD
    decayed = matrix_nms(binary, cells.classes[order], scores[order])
    np.testing.assert_allclose(decayed, golden["nms_out_scores"], rtol=0, atol=4e-5)


def test_proposals(trace, golden):
    _, _, found = trace
    expected = golden.masks("pred_masks")
    assert found.masks.shape == expected.shape
    np.testing.assert_allclose(found.scores, golden["scores"], rtol=0, atol=4e-5)
    differing = (found.masks != expected).sum((1, 2))
    assert differing.max() <= 6  # of 195,713; the released code in float32 and in float64 part by 3
    np.testing.assert_allclose(found.boxes, golden["pred_boxes"], rtol=0, atol=0.5)


def test_the_optimised_network_equals_the_plain_one(trace, state_dict):
    """Batch norms, memory layout and 3x3 convolutions as they are written down: relative L2 norm of every output."""
    _, raw, found = trace
    _, plain, expected = traced(FreeSolo(load_network(state_dict)), Folder(GOLDEN).image("astronaut"))
    outputs, plain_outputs = ([*r.category_logits, *r.kernels, r.mask_features] for r in (raw, plain))
    for got, reference in zip(outputs, plain_outputs, strict=True):
        assert (got - reference).norm() <= 1e-5 * reference.norm()
    assert found.masks.shape == expected.masks.shape
    assert (found.masks != expected.masks).sum((1, 2)).max() <= 6
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=4e-5)  # a pixel that flips moves a mean
