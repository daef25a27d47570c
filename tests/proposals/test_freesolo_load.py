"""The FreeSOLO network and its checkpoints: forms that load, forms that do not, and what a loaded network promises."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image

from stages.proposals.freesolo import FreeSolo, load_network, padded, resized_size
from stages.proposals.network import Architecture, SoloNetwork, Stage
from store.errors import ParameterError, WeightsError

TINY = Architecture(
    stem=8,
    stages=(Stage(1, 4, 16), Stage(2, 8, 16), Stage(1, 8, 24), Stage(3, 8, 32)),
    pyramid=16,
    tower_width=32,
    tower_depth=2,
    mask_width=32,
    kernel=32,
    classes=2,
)
GRIDS = (6, 5, 4, 3, 2)


@pytest.fixture(scope="module")
def tiny_weights():
    torch.manual_seed(3)
    network = SoloNetwork(TINY, GRIDS)
    network.ins_head.cate_pred.bias.data.fill_(0.5)  # so that cells fire
    network.ins_head.kernel_pred.weight.data.mul_(4)
    return network.state_dict()


def load(weights, **options):
    return FreeSolo.from_state_dict(weights, short_side=64, grids=GRIDS, **options)


def picture(width=70, height=50, mode="RGB"):
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)).convert(mode)


def test_architecture_is_read_off_the_shapes(tiny_weights):
    assert load(tiny_weights).network.architecture == TINY


def test_proposals_have_the_promised_form(tiny_weights):
    found = load(tiny_weights).propose(picture())
    assert len(found.scores) >= 3
    assert found.masks.shape == (len(found.scores), 50, 70)
    assert found.masks.dtype == np.bool_
    assert found.boxes.shape == (len(found.scores), 4)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all()
    assert found.masks.any((1, 2)).all()


def test_no_proposals_is_a_result(tiny_weights):
    found = load(tiny_weights, score_threshold=1.0).propose(picture())
    assert found.masks.shape == (0, 50, 70)
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


def test_the_box_rule_is_a_choice(tiny_weights):
    found = load(tiny_weights, box="tight").propose(picture())
    rows = [[np.nonzero(m.any(0))[0].min(), np.nonzero(m.any(1))[0].max() + 1] for m in found.masks]
    assert found.boxes[:, [0, 3]].tolist() == [[float(a), float(b)] for a, b in rows]


def test_known_extras_and_other_forms_change_nothing(tiny_weights):
    expected = load(tiny_weights).propose(picture())
    extras = OrderedDict(tiny_weights)
    extras["_iter"] = torch.zeros(1)
    extras["pixel_mean"] = extras["pixel_std"] = torch.ones(3, 1, 1)
    extras["ins_head.emb_pred.weight"] = torch.ones(128, 32, 3, 3)
    extras["ins_head.emb_pred.bias"] = torch.ones(128)
    wrapped = {"model": extras, "optimizer": {"state": 1}, "iteration": 7, "__author__": "someone"}
    as_arrays = {key: value.numpy() for key, value in tiny_weights.items() if not key.endswith("num_batches_tracked")}
    for form in (extras, wrapped, {**extras, "metadata": {"classes": ["object"]}}, as_arrays):
        got = load(form).propose(picture())
        np.testing.assert_array_equal(got.scores, expected.scores)
        np.testing.assert_array_equal(got.masks, expected.masks)


@pytest.mark.parametrize("form", ["pkl", "pth", "module"])
def test_files_of_every_form_change_nothing(tiny_weights, form, tmp_path):
    """detectron2's .pkl holds numpy arrays."""
    file = tmp_path / "weights"
    arrays = {key: value.numpy() for key, value in tiny_weights.items()}
    if form == "pkl":
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone", "matching_heuristics": True}))
    elif form == "pth":
        torch.save({"model": tiny_weights, "optimizer": {"lr": np.float64(1)}, "iteration": 7}, file)
    else:
        torch.save({f"module.{key}": value for key, value in tiny_weights.items()}, file)
    expected = load(tiny_weights).propose(picture())
    got = FreeSolo.from_file(file, short_side=64, grids=GRIDS).propose(picture())
    np.testing.assert_array_equal(got.scores, expected.scores)
    np.testing.assert_array_equal(got.masks, expected.masks)


def without(weights, *keys):
    return {key: value for key, value in weights.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "backbone.fpn_output3.bias"), r"1 missing keys: backbone\.fpn_output3\.bias"),
        (lambda w: without(w, "ins_head.kernel_pred.weight"), r"missing key ins_head\.kernel_pred\.weight"),
        (
            lambda w: without(w, "backbone.bottom_up.res3.1.conv2.norm.running_var"),
            r"res3\.1\.conv2\.norm\.running_var",
        ),
        (lambda w: w | {"mask_head.extra.weight": torch.ones(1)}, r"1 unexpected keys: mask_head\.extra\.weight"),
        (lambda w: w | {"ins_head.cate_pred.bias": torch.ones(3)}, r"cate_pred\.bias: expected shape \[2\], got \[3\]"),
        (lambda w: w | {"ins_head.cate_pred.bias": [0.0, 0.0]}, r"cate_pred\.bias: expected a tensor, got list"),
        (lambda w: w | {"ins_head.kernel_pred.weight": torch.ones(33, 32, 3, 3)}, "kernel: expected a multiple of 32"),
        (lambda w: w | {"ins_head.kernel_pred.weight": torch.ones(33)}, r"kernel_pred\.weight: expected a shape of 4"),
        (lambda w: {"visual.proj": torch.ones(2)}, r"missing key .* got keys like visual\.proj"),
        (lambda w: {}, "got keys like none at all"),
    ],
)
def test_a_wrong_checkpoint_is_named(tiny_weights, change, message):
    with pytest.raises(WeightsError, match=message):
        load(change(dict(tiny_weights)))


def test_one_stride_per_grid(tiny_weights):
    with pytest.raises(ParameterError, match="strides"):
        load(tiny_weights, strides=(8, 8))
    with pytest.raises(ParameterError, match="grids"):
        FreeSolo.from_state_dict(tiny_weights, grids=(4, 3), strides=(8, 8))
    with pytest.raises(ParameterError, match="short_side"):
        FreeSolo.from_state_dict(tiny_weights, short_side=0)


def test_the_state_dict_is_copied(tiny_weights):
    weights = {key: value.clone() for key, value in tiny_weights.items()}
    net = load(weights)
    before = net.propose(picture()).scores
    for value in weights.values():
        value.zero_()
    np.testing.assert_array_equal(net.propose(picture()).scores, before)


def test_norms_are_frozen_until_trained(tiny_weights):
    net = FreeSolo(load_network(tiny_weights, GRIDS), short_side=64)
    norm = net.network.backbone.bottom_up.stem.conv1.norm
    net.propose(picture())
    assert torch.equal(norm.running_mean, tiny_weights["backbone.bottom_up.stem.conv1.norm.running_mean"])
    raw = net.network.train()(padded(net.preprocess(picture()))[None])
    raw.mask_features.sum().backward()
    assert norm.weight.grad is not None
    assert not torch.equal(norm.running_mean, tiny_weights["backbone.bottom_up.stem.conv1.norm.running_mean"])


def test_inference_keeps_no_gradients_and_follows_the_dtype(tiny_weights):
    net = load(tiny_weights)
    single = net.propose(picture())
    net.network.double()
    raw = net.forward(padded(net.preprocess(picture()))[None])
    assert raw.mask_features.dtype == torch.float64
    assert not raw.mask_features.requires_grad
    double = net.propose(picture())
    np.testing.assert_allclose(double.scores, single.scores, atol=1e-5)


def test_a_batch_equals_its_images(tiny_weights):
    net = load(tiny_weights)
    images = [picture(), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    pixels = [net.preprocess(image) for image in images]
    raw = net.forward(torch.stack([padded(item) for item in pixels]))
    for index, image in enumerate(images):
        got = net.decode(raw, index, tuple(pixels[index].shape[1:]), (50, 70))
        alone = net.propose(image)
        np.testing.assert_allclose(got.scores, alone.scores, atol=1e-5)
        assert (got.masks != alone.masks).sum() <= 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_image_modes_are_converted(tiny_weights, mode):
    net, image = load(tiny_weights), picture(mode=mode)
    np.testing.assert_array_equal(net.propose(image).scores, net.propose(image.convert("RGB")).scores)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((383, 511), (800, 1067)), ((640, 427), (1199, 800)), ((5, 5), (800, 800)), ((10, 400), (800, 32000))],
)
def test_resized_size(size, expected):
    assert resized_size(size, 800) == expected


def test_padding_is_zeros_at_the_bottom_and_right():
    out = padded(torch.ones(3, 33, 64))
    assert out.shape == (3, 64, 64)
    assert out[:, :33].min() == 1
    assert out[:, 33:].max() == 0
