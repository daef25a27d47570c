"""FreeSOLO at its official size against the released code's numbers (tests/golden/README.md: files, tolerances)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.proposals.decode import MASK_THRESHOLD, fired_cells, mask_statistics, matrix_nms, soft_masks
from stages.proposals.freesolo import FreeSolo, padded
from stages.proposals.network import Architecture, Stage

GOLDEN = Path(__file__).parent / "golden"
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
    with np.load(GOLDEN / "freesolo_astronaut.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def net():
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    shapes = json.loads((GOLDEN / "freesolo_shapes.json").read_text())
    state_dict = weights.fill(shapes, weights.SEEDS["freesolo_r101"])
    assert weights.checksum(state_dict) == "2f5bf089"
    return FreeSolo.from_state_dict(state_dict)


@pytest.fixture(scope="session")
def image():
    return Image.open(GOLDEN / "images" / "astronaut.png")


@pytest.fixture(scope="session")
def traced(net, image):
    """Everything the golden file names, from one forward pass: (name -> tensor, raw outputs, proposals)."""
    seen, hooks = {}, []
    for name in ("stem", "res2", "res3", "res4", "res5"):
        module = net.network.backbone.bottom_up.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.clone()})))
    hooks.append(
        net.network.backbone.register_forward_hook(lambda _, __, out: seen.update(zip(PYRAMID, out, strict=True)))
    )
    seen["input"] = net.preprocess(image)[None]
    seen["padded"] = padded(seen["input"])
    raw = net.forward(seen["padded"])
    for hook in hooks:
        hook.remove()
    seen["mask_pred"] = raw.mask_features
    for level, (logits, kernels) in enumerate(zip(raw.category_logits, raw.kernels, strict=True)):
        seen[f"cate_logits{level}"], seen[f"kernel_pred{level}"] = logits, kernels
    return seen, raw, net.decode(raw, 0, tuple(seen["input"].shape[-2:]), (image.height, image.width))


PYRAMID = ("p2", "p3", "p4", "p5", "p6")
TRACED = ("input", "padded", "stem", "res2", "res3", "res4", "res5", *PYRAMID, "mask_pred")
LEVELS = tuple(f"{what}{level}" for what in ("cate_logits", "kernel_pred") for level in range(5))


def test_the_architecture_is_the_official_one(net):
    assert net.network.architecture == OFFICIAL


@pytest.mark.parametrize("name", TRACED + LEVELS)
def test_intermediate(traced, golden, name):
    values = traced[0][name]
    assert list(values.shape) == golden[f"shape_{name}"].tolist()
    flat = values.flatten().double().numpy()
    points = np.linspace(0, flat.size - 1, 256).astype(np.int64)
    np.testing.assert_allclose(flat[points], golden[f"sample_{name}"], rtol=0, atol=1e-4)
    statistics = [flat.mean(), flat.std(), flat.min(), flat.max()]
    np.testing.assert_allclose(statistics, golden[f"stat_{name}"], rtol=0, atol=1e-4)


def test_category_logits_kernels_and_mask_features(traced, golden):
    _, raw, _ = traced
    for level, logits in enumerate(raw.category_logits):
        np.testing.assert_allclose(logits[0].numpy(), golden[f"cate_logits{level}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(raw.kernels[0][0, :, ::8, ::8], golden["kernel_pred0_grid8"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(raw.mask_features[0, :, ::40, ::40], golden["mask_pred_grid"], rtol=0, atol=1e-4)


def test_candidates_and_matrix_nms(traced, golden, net):
    """The parts of decoding, each against the numbers before and after it."""
    _, raw, _ = traced
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


def test_proposals(traced, golden):
    _, _, found = traced
    count, height, width = golden["pred_masks_shape"]
    expected = np.unpackbits(golden["pred_masks"])[: count * height * width].reshape(count, height, width).astype(bool)
    assert found.masks.shape == expected.shape
    np.testing.assert_allclose(found.scores, golden["scores"], rtol=0, atol=4e-5)
    differing = (found.masks != expected).sum((1, 2))
    assert differing.max() <= 6  # of 195,713; the released code in float32 and in float64 part by 3
    np.testing.assert_allclose(found.boxes, golden["pred_boxes"], rtol=0, atol=0.5)
