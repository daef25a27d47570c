"""CLIP-ES's map against a plain backward pass of open_clip's own forward pass, one phrase after another, in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from stages.visual.activation_map import Activations, affinity_of, boxed, grid_of, min_max, refined
from stages.visual.mask_encoder import MaskEncoder
from store.errors import ParameterError
from tests.helpers.visual_oracles import DEPTH, PATCH, RESNET, VIT, H, W, random_model, some_image

Array = Any
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SCALE = 12.0


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(VIT)


@pytest.fixture(scope="module")
def texts() -> Array:
    """Six unit vectors; the first two are alike, so that the target has a rival."""
    vectors = np.random.default_rng(3).normal(size=(6, 24))
    vectors[1] = vectors[0] + 0.3 * vectors[1]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Plain:
    """The forward pass as open_clip's modules do it, in float64, with what hooks see of it."""

    def __init__(self, model: Any, image: Image.Image) -> None:
        self.visual = copy.deepcopy(model).double().visual
        self.grid = (-(-image.height // PATCH), -(-image.width // PATCH))
        size = (self.grid[1] * PATCH, self.grid[0] * PATCH)
        pixels = np.array(image.resize(size, Image.Resampling.BICUBIC)) / 255
        picture = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None]
        visual = self.visual
        patches = visual.conv1(picture).flatten(2).mT
        table = visual.positional_embedding
        side = int((len(table) - 1) ** 0.5)
        cells = functional.interpolate(table[1:].T.reshape(1, -1, side, side), self.grid, mode="bilinear")
        tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches], 1)
        states = visual.ln_pre(tokens + torch.cat([table[:1], cells.flatten(2)[0].T]))
        self.attention, blocks = [], visual.transformer.resblocks
        for block in blocks:
            seen = block.ln_1(states)
            weights = block.attn(seen, seen, seen, need_weights=True, average_attn_weights=True)[1]
            self.attention.append(weights[0, 1:, 1:].detach().numpy())
            if block is not blocks[-1]:
                states = block(states)

        def keep(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
            self.seen = out.detach().requires_grad_()
            return self.seen

        handle = blocks[-1].ln_1.register_forward_hook(keep)
        states = blocks[-1](states.detach())
        handle.remove()
        self.feature = visual.ln_post(states)[0, 1:].mean(0) @ visual.proj

    def share(self, texts: Array, scale: float) -> torch.Tensor:
        unit = self.feature / self.feature.norm()
        return (scale * torch.from_numpy(texts) @ unit).softmax(0)[0]

    def weighted(self, texts: Array, scale: float) -> Array:
        """A w, before ReLU, float64 (P,)."""
        self.seen.grad = None
        self.share(texts, scale).backward(retain_graph=True)
        assert self.seen.grad is not None
        return (self.seen.detach()[0, 1:] @ self.seen.grad[0, 1:].mean(0)).numpy()


def plain_map(heat: Array, grid: tuple[int, int]) -> Array:
    positive = np.maximum(heat, 0)
    return ((positive - positive.min()) / (positive.max() - positive.min())).reshape(grid)


@pytest.fixture(scope="module")
def plain(model: Any) -> Plain:
    return Plain(model, some_image())


@pytest.fixture(scope="module")
def ours(model: Any) -> Activations:
    return Activations.of(MaskEncoder(model), some_image(), 640, True)


@pytest.mark.parametrize("target", range(6))
def test_the_map_is_that_of_a_plain_backward_pass(plain: Plain, ours: Activations, texts: Array, target: int) -> None:
    order = [target, *(row for row in range(6) if row != target)]
    expected = plain_map(plain.weighted(texts[order], SCALE), plain.grid)
    found = ours.map_of(texts[order], SCALE)
    assert found.dtype == np.float32
    assert found.shape == ours.grid == plain.grid == (-(-H // PATCH), -(-W // PATCH))
    assert np.abs(found - expected).max() < 1e-4
    assert 0.02 < expected.mean() < 0.98, "the case says something"


@pytest.fixture(scope="module")
def evidence(plain: Plain) -> Array:
    """E (P, D): the derivative of f^ as all patches of A move by A_p / P."""
    unit, seen = plain.feature / plain.feature.norm(), plain.seen.detach()[0, 1:]
    gradients = [torch.autograd.grad(axis, plain.seen, retain_graph=True)[0][0, 1:].sum(0) for axis in unit]
    return (seen @ torch.stack(gradients).T / len(seen)).numpy()


@pytest.mark.parametrize("scale", [1.0, SCALE, 100.0, 600.0])
@pytest.mark.parametrize("target", range(6))
def test_it_is_linear_up_to_the_relu(
    plain: Plain, ours: Activations, evidence: Array, texts: Array, target: int, scale: float
) -> None:
    """CAM = min-max(ReLU(E u)), u = t_0 - sum_j p_j t_j, also where p_0 is 0 or 1 in 32 bits."""
    own = np.roll(texts, -target, 0)
    unit = (plain.feature / plain.feature.norm()).detach().numpy()
    logits = scale * own @ unit
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    heat = evidence @ sum(share * (own[0] - text) for share, text in zip(shares, own, strict=True))
    found = ours.map_of(own, scale)
    if (heat <= 0).all():
        assert not found.any()
    else:
        np.testing.assert_allclose(found, plain_map(heat, plain.grid), atol=1e-4)


def test_the_cases_have_targets_that_are_sure_and_hopeless(plain: Plain, texts: Array) -> None:
    shares = [plain.share(np.roll(texts, -target, 0), 600.0).item() for target in range(6)]
    assert np.float32(max(shares)) == 1
    assert min(shares) < 1e-45
    maps = [plain.weighted(np.roll(texts, -target, 0), SCALE).max() > 0 for target in range(6)]
    assert sum(maps) >= 3


def test_other_texts_change_no_map(ours: Activations, texts: Array) -> None:
    first = ours.map_of(texts, SCALE)
    ours.map_of(texts[::-1], SCALE)
    np.testing.assert_array_equal(ours.map_of(texts, SCALE), first)


def test_one_text_alone_has_no_map(ours: Activations, texts: Array) -> None:
    assert not ours.map_of(np.stack([texts[0], texts[0]]), SCALE).any()


def sinkhorn(attention: Array) -> Array:
    matrix = attention.copy()
    for _ in range(3):
        for column in range(len(matrix)):
            matrix[:, column] /= matrix[:, column].sum()
        for row in range(len(matrix)):
            matrix[row] /= matrix[row].sum()
    matrix = (matrix + matrix.T) / 2
    return matrix @ matrix


def test_affinity_is_the_attention_of_all_blocks_balanced(plain: Plain, ours: Activations) -> None:
    assert len(plain.attention) == DEPTH <= 8
    np.testing.assert_allclose(ours.affinity, sinkhorn(np.mean(plain.attention, 0)), rtol=1e-4, atol=1e-7)
    balanced = affinity_of(torch.from_numpy(np.mean(plain.attention, 0)))
    np.testing.assert_allclose(ours.affinity, balanced, rtol=1e-4, atol=1e-7)


def test_only_the_last_eight_blocks_count() -> None:
    deep = random_model({**VIT, "layers": 10})
    expected = sinkhorn(np.mean(Plain(deep, some_image()).attention[-8:], 0))
    found = Activations.of(MaskEncoder(deep), some_image(), 640, True).affinity
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-7)


def box_of(high: Array) -> Array:
    """The boxes by spreading labels until nothing changes."""
    label = np.where(high, np.arange(high.size).reshape(high.shape) + 1, 0)
    for _ in range(high.size):
        for y, x in zip(*np.nonzero(high), strict=True):
            near = label[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            label[y, x] = near.max()
    out = np.zeros_like(high)
    for name in set(label[high].tolist()):
        ys, xs = np.nonzero(label == name)
        out[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    return out


@pytest.mark.parametrize("seed", range(8))
def test_boxes_are_those_of_connected_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    high = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < 0.3
    np.testing.assert_array_equal(boxed(high), box_of(high))
    assert (boxed(high) | ~high).all()
    np.testing.assert_array_equal(boxed(boxed(high)) | boxed(high), boxed(boxed(high)))


def test_two_parts_that_touch_at_a_corner_are_one() -> None:
    assert boxed(np.eye(3, dtype=bool)).all()
    assert boxed(np.array([[1, 0, 1]], bool)).tolist() == [[True, False, True]]


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9])
def test_refinement(ours: Activations, texts: Array, threshold: float) -> None:
    heat = ours.map_of(texts, SCALE).astype(np.float64)
    box = box_of(heat >= threshold * heat.max()).ravel()
    spread = np.zeros(heat.size)
    for target in range(heat.size):
        for source in range(heat.size):
            spread[target] += ours.affinity[target, source] * box[source] * heat.ravel()[source]
    expected = (spread - spread.min()) / (spread.max() - spread.min())
    found = refined(heat.astype(np.float32), ours.affinity, threshold)
    np.testing.assert_allclose(found, expected.reshape(heat.shape), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "longest", "grid"),
    [((640, 480), 640, (30, 40)), ((641, 480), 700, (30, 41)), ((1280, 960), 640, (30, 40)), ((300, 15), 640, (1, 19))],
)
def test_the_grid_is_the_next_multiple_of_the_patch(size: tuple[int, int], longest: int, grid: tuple[int, int]) -> None:
    assert grid_of(Image.new("RGB", size), (16, 16), longest) == grid


def test_min_max_of_a_map_that_is_the_same_everywhere_is_zero() -> None:
    assert not min_max(np.full((2, 3), 0.7, np.float32)).any()


def test_an_encoder_of_another_kind_is_refused() -> None:
    with pytest.raises(ParameterError, match="expected an encoder of kind vit"):
        Activations.of(MaskEncoder(random_model(RESNET)), some_image(), 640, False)
