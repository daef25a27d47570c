"""FreeSOLO's network for inference against the network as it is written down, in parts and whole, and in half precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from stages.device.precision import bf16_gain, torch_dtype
from stages.proposals import winograd
from stages.proposals.freesolo import FreeSolo, load_network
from stages.proposals.inference import folded, optimised
from stages.proposals.network import Architecture, ConvNorm, RawOutput, SoloNetwork, Stage
from stages.proposals.winograd import WinogradConv, transforms
from stages.propose import Params
from store.errors import ParameterError

WIDE = Architecture(
    stem=16,
    stages=(Stage(1, 16, 32), Stage(2, 128, 160), Stage(1, 128, 160), Stage(1, 32, 32)),
    pyramid=128,
    tower_width=128,
    tower_depth=2,
    mask_width=128,
    kernel=32,
    classes=2,
)
GRIDS = (7, 6, 5, 4, 3)


def relative(got, expected):
    return float((got.double() - expected.double()).norm() / expected.double().norm())


# ---- Winograd's convolution


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=6, max_size=6), st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_the_transforms_are_those_of_a_correlation(data, kernel):
    at_input, at_kernel, at_output = transforms()
    d, w = (torch.tensor(values, dtype=torch.float64) for values in (data, kernel))
    got = at_output @ ((at_kernel @ w) * (at_input @ d))
    np.testing.assert_allclose(got, np.correlate(data, kernel), rtol=0, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 23), st.integers(1, 23)),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
    at_once=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_winograd_equals_the_convolution(size, outputs, bias, at_once, seed):
    """Any size, also not a multiple of the tile or smaller than it, and in strips of any height."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(size[1], outputs, 3, padding=1, bias=bias).double()
    x = torch.randn(size, dtype=torch.float64).to(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(winograd, "TILES_AT_ONCE", at_once)
        torch.testing.assert_close(WinogradConv(conv)(x), conv(x), rtol=0, atol=1e-12)


def test_winograd_rounds_little_more_than_the_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    x = torch.randn(1, 128, 21, 18).relu()
    with torch.no_grad():
        exact = functional.conv2d(x.double(), conv.weight.double(), padding=1)
        got = WinogradConv(conv)(x)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert relative(got, exact) < 2e-6


# ---- folding


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_folded_norm_equals_convolution_and_norm(size, stride):
    torch.manual_seed(size)
    plain = random_norms(ConvNorm(5, 6, size, stride).double()).eval()
    x = torch.randn(2, 5, 13, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(plain)(x), plain(x), rtol=1e-12, atol=1e-12)


def random_norms(module):
    """Batch norms that do something, as after training."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.2, 2)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.2, 2)
    return module


# ---- the whole network


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(1)
    network = random_norms(SoloNetwork(WIDE, GRIDS))
    network.ins_head.cate_pred.bias.data.fill_(0.5)  # so that cells fire
    network.ins_head.kernel_pred.weight.data.mul_(4)
    return network.state_dict()


def picture(width=90, height=70):
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8))


def outputs(raw):
    return [*raw.category_logits, *raw.kernels, raw.mask_features]


def test_the_optimised_network_equals_the_plain_one(weights):
    images = torch.randn(2, 3, 96, 128)
    fast, plain = optimised(load_network(weights, GRIDS)), load_network(weights, GRIDS)
    with torch.no_grad():
        for got, expected in zip(outputs(fast(images)), outputs(plain(images)), strict=True):
            assert got.shape == expected.shape
            assert relative(got, expected) <= 1e-5


def test_the_same_proposals(weights):
    plain = FreeSolo(load_network(weights, GRIDS), short_side=64).propose(picture())
    found = FreeSolo.from_state_dict(weights, short_side=64, grids=GRIDS).propose(picture())
    assert len(plain.scores) >= 3
    np.testing.assert_allclose(found.scores, plain.scores, rtol=0, atol=1e-5)
    assert (found.masks != plain.masks).sum() <= 3


def test_which_modules_change(weights):
    network = optimised(load_network(weights, GRIDS))
    assert not any(isinstance(module, ConvNorm | nn.BatchNorm2d) for module in network.modules())
    assert not any(values.requires_grad for values in network.parameters())
    changed = {name for name, module in network.named_modules() if isinstance(module, WinogradConv)}
    assert {"backbone.fpn_output2", "ins_head.cate_tower.3", "mask_head.convs_all_levels.0.conv0.0"} < changed
    assert "backbone.bottom_up.res3.1.conv2" in changed  # 128 channels, stride 1
    assert "backbone.bottom_up.res3.0.conv2" not in changed  # stride 2
    assert "backbone.bottom_up.res2.0.conv2" not in changed  # 16 channels
    assert "ins_head.kernel_pred" not in changed  # 32 outputs
    assert "backbone.fpn_lateral3" not in changed  # 1x1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same(weights, precision):
    exact = FreeSolo.from_state_dict(weights, short_side=64, grids=GRIDS)
    half = FreeSolo.from_state_dict(weights, short_side=64, grids=GRIDS, precision=precision)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for got, expected in zip(outputs(half.forward(images)), outputs(exact.forward(images)), strict=True):
        assert got.dtype == torch_dtype(precision)
        assert 1e-5 < relative(got, expected) < 0.1
    assert not any(isinstance(module, WinogradConv) for module in half.network.modules())
    found = half.propose(picture())
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert len(found.scores) >= 3
    assert found.masks.any((1, 2)).all()


def test_an_overflow_in_half_precision_is_no_quiet_loss(weights):
    net = FreeSolo.from_state_dict(weights, short_side=64, grids=GRIDS, precision="fp16")
    raw = net.forward(torch.zeros(1, 3, 64, 96))
    raw.mask_features[0, 3, 2, 1] = torch.inf
    with pytest.raises(
        ParameterError, match=r"precision: expected finite .* got infinite ones in .*float16; take bf16"
    ):
        net.decode(RawOutput(*raw), 0, (64, 90), (70, 90))


# ---- the parameter


def test_precision_is_a_parameter_that_counts():
    assert Params().precision == "float32"
    assert Params().config() != Params(precision="bf16").config()
    with pytest.raises(ValidationError, match="precision"):
        Params(precision="float64")


def test_precisions_by_name():
    assert [torch_dtype(name) for name in ("float32", "bf16", "fp16")] == [torch.float32, torch.bfloat16, torch.half]


def test_the_gain_of_bf16_is_a_ratio():
    assert 0.001 < bf16_gain() < 1000
