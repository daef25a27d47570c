"""Fast ways of the visual side against the plain ones: sparse tail, the ResNet's pool, crops and grids read by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from stages.visual import masked_vit
from stages.visual.attention import attend_once
from stages.visual.masked_resnet import MaskedResNet
from stages.visual.masked_vit import MaskedViT
from stages.visual.preprocess import Preprocess, cut_together
from stages.visual.sparse_tail import BUCKET, Packed, pack, padded
from tests.helpers.visual_oracles import DEPTH, GRID, RESNET, SIDE, VIT, Array, random_model, relative

TOLERANCE = 1e-5
PATCHES = GRID * GRID
CUSTOM = {"qk_norm": True, "scale_heads": True, "scale_attn": True, "ls_init_value": 0.1}
BLOCKS = {"plain": VIT, "layer scale": {**VIT, "ls_init_value": 0.5, "no_ln_pre": True}}


@pytest.fixture(scope="module", params=BLOCKS)
def vit(request: pytest.FixtureRequest) -> MaskedViT:
    return MaskedViT(random_model(BLOCKS[request.param], quick_gelu=request.param == "plain").visual, "token")


@pytest.fixture(scope="module")
def resnet() -> MaskedResNet:
    return MaskedResNet(random_model(RESNET).visual)


def pixels(images: int, side: int = SIDE) -> Tensor:
    return torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(5))


def soft_masks(shares: list[float], seed: int = 0, patches: int = PATCHES) -> Array:
    """A mask (patches,) for each share of patches kept, most of them whole."""
    rng = np.random.default_rng(seed)
    kept = rng.random((len(shares), patches)) < np.array(shares)[:, None]
    values = np.where(rng.random(kept.shape) < 0.8, 1, rng.random(kept.shape))
    return np.where(kept, values, 0).astype(np.float32)


def as_grid(masks: Array) -> Tensor:
    side = round(masks.shape[1] ** 0.5)
    return torch.from_numpy(masks).view(-1, side, side)


@torch.inference_mode()
def sparse_and_dense(vit: MaskedViT, masks: Array, owners: list[int], k: int, batch: int) -> tuple[Array, Array]:
    assert vit.sparse
    state, own = vit.shared(pixels(3), [k])[k], np.array(owners, np.int64)
    return tuple(way(state, own, as_grid(masks), k, batch).numpy() for way in (vit.masked, vit.dense))  # type: ignore[return-value]


ONE = np.eye(PATCHES, dtype=np.float32)
DEGENERATE = {
    "empty": np.zeros((1, PATCHES), np.float32),
    "full": np.ones((1, PATCHES), np.float32),
    "one patch": ONE[5:6],
    "one faint patch": ONE[:1] * np.float32(1e-6),
    "all but one": 1 - ONE[3:4],
    "all at once": np.concatenate(
        [np.zeros((1, PATCHES)), np.ones((2, PATCHES)), ONE[:2], 1 - ONE[:1]], dtype=np.float32
    ),
    "one mask": soft_masks([0.3]),
    "a hundred": soft_masks([i / 99 for i in range(100)]),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("k", [1, 2, DEPTH])
def test_sparse_tail_is_the_dense_one(vit: MaskedViT, name: str, k: int) -> None:
    masks = DEGENERATE[name]
    got, expected = sparse_and_dense(vit, masks, [i % 3 for i in range(len(masks))], k, 64)
    assert got.shape == (len(masks), vit.dim)
    assert relative(got, expected) < TOLERANCE


def test_the_mask_matters(vit: MaskedViT) -> None:
    """Else the parity above would say nothing."""
    got, _ = sparse_and_dense(vit, soft_masks([0.2, 0.2, 0.7, 0.7]), [0, 1, 0, 1], 3, 64)
    assert min(relative(got[[a]], got[[b]]) for a in range(4) for b in range(a)) > 1e-2


@settings(deadline=None, max_examples=25)
@given(
    shares=st.lists(st.sampled_from([0.0, 0.05, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=20),
    seed=st.integers(0, 2**16),
    k=st.integers(1, DEPTH),
    batch=st.integers(1, 9),
    data=st.data(),
)
def test_sparse_tail_on_any_masks_of_any_images(
    vit: MaskedViT, shares: list[float], seed: int, k: int, batch: int, data: st.DataObject
) -> None:
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(shares), max_size=len(shares)))
    assert relative(*sparse_and_dense(vit, soft_masks(shares, seed), owners, k, batch)) < TOLERANCE


def test_no_pass_holds_more_tokens_than_batch_whole_images(vit: MaskedViT, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Packed] = []

    def spy(weights: Array, owners: Array, like: Tensor) -> Packed:
        passes.append(pack(weights, owners, like))
        return passes[-1]

    monkeypatch.setattr(masked_vit, "pack", spy)
    masks = DEGENERATE["a hundred"]
    sparse_and_dense(vit, masks, [0] * 100, 2, 4)
    assert sum(len(each.distinct) - 1 for each in passes) == 100 + np.count_nonzero(masks)
    assert max(len(each.seen) for each in passes) <= 4 * (1 + padded(np.array(1 + PATCHES)))
    assert len(passes) < 25, "a pass should hold more of small masks than of whole ones"


def test_what_a_mask_sees_is_its_tokens_and_nothing_else() -> None:
    masks = soft_masks([0, 0.1, 0.4, 0.4, 0.9, 1], seed=1)
    packed = pack(masks, np.array([0, 1, 0, 1, 0, 1]), torch.zeros(1))
    order, places = packed.order.tolist(), packed.seen
    asking, found = [], []
    for group in packed.groups:
        seen, places = places[: group.bias.numel()].view(group.bias.shape), places[group.bias.numel() :]
        asking.append(seen[:, 1:].flatten())
        for rows, bias in zip(seen, group.bias, strict=True):
            mask = masks[order.pop(0)]
            own = bias[1:] == 0
            assert (bias[1:][~own] == -np.inf).all()
            assert 0 <= int((~own).sum()) < BUCKET
            np.testing.assert_array_equal(packed.weight[rows[1:][own], 0].numpy(), [1, *mask[mask != 0]])
            zeros = np.count_nonzero(mask == 0)
            assert bias[0].item() == pytest.approx(np.log(zeros)) if zeros else bias[0] == -np.inf
            found += rows[1:][own].tolist()
    assert not order
    assert not len(places)
    assert found == list(range(1, len(packed.weight)))
    np.testing.assert_array_equal(torch.cat(asking)[packed.kept[1:]].numpy(), found)
    np.testing.assert_array_equal(packed.source_weight[packed.distinct], packed.weight)
    assert len(packed.source) < len(packed.distinct)


def test_what_must_stay_dense() -> None:
    custom = MaskedViT(random_model({**VIT, **CUSTOM}).visual, "token")
    attention = MaskedViT(random_model(VIT).visual, "attention")
    assert not custom.sparse
    assert not attention.sparse
    masks, owners = soft_masks([0.2, 0.5, 0.8]), np.array([0, 2, 1])
    with torch.inference_mode():
        for vit in (custom, attention):
            state = vit.shared(pixels(3), [2])[2]
            together = vit.masked(state, owners, as_grid(masks), 2, 2).numpy()
            for row, image in enumerate(owners):
                alone = vit.masked(state[image : image + 1], np.zeros(1, np.int64), as_grid(masks[row : row + 1]), 2, 1)
                assert relative(together[[row]], alone.numpy()) < 1e-6


# One query.


@pytest.mark.parametrize("heads", [1, 4])
def test_attend_once_is_attention(heads: int) -> None:
    random = torch.Generator().manual_seed(3)
    query, tokens = torch.randn(5, 16, generator=random), torch.randn(5, 7, 24, generator=random)
    key, value = torch.randn(2, 16, 24, generator=random)
    key_bias, value_bias = torch.randn(2, 16, generator=random)
    bias = torch.randn(5, 7, generator=random).masked_fill(torch.rand(5, 7, generator=random) < 0.3, -torch.inf)
    bias[:, 0] = 0

    def split(rows: Tensor) -> Tensor:
        return rows.unflatten(2, (heads, -1)).transpose(1, 2)

    for own in (bias, None):
        expected = functional.scaled_dot_product_attention(
            split(query[:, None]),
            split(functional.linear(tokens, key, key_bias)),
            split(functional.linear(tokens, value, value_bias)),
            attn_mask=None if own is None else own[:, None, None],
        )
        halves = [None, None] if own is None else [own[:2], own[2:]]
        got = attend_once(query, [tokens[:2], tokens[2:]], key, value, value_bias, heads, halves)
        assert relative(got.numpy(), expected.transpose(1, 2).flatten(1).numpy()) < TOLERANCE


@settings(deadline=None, max_examples=15)
@given(
    shares=st.lists(st.sampled_from([0.0, 0.12, 0.5, 1.0]), min_size=1, max_size=12),
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 5),
)
def test_resnet_pools_by_linearity_what_its_pool_makes_of_the_masked_map(
    resnet: MaskedResNet, shares: list[float], seed: int, batch: int
) -> None:
    masks = soft_masks(shares, seed, patches=9)
    owners = np.random.default_rng(seed).integers(0, 2, len(shares))
    with torch.inference_mode():
        state = resnet.shared(pixels(2, 96), [1])[1]
        got = resnet.masked(state, owners, as_grid(masks), 1, batch)
        plain = resnet._visual.attnpool(state[owners] * as_grid(masks)[:, None])
    assert relative(got.numpy(), plain.numpy()) < TOLERANCE


# Pixels.


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    grid=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    seed=st.integers(0, 2**16),
)
def test_grid_masks_are_torchs_resize(height: int, width: int, grid: tuple[int, int], seed: int) -> None:
    masks = np.random.default_rng(seed).random((3, height, width)) < 0.5
    preprocess = Preprocess((0.0,) * 3, (1.0,) * 3, False, 60, "mean")
    got = preprocess.grid_masks(masks, grid, 2, torch.device("cpu"))
    expected = preprocess.resize(torch.from_numpy(masks).float()[:, None], grid)[:, 0]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(got != 0, expected != 0)


@pytest.mark.parametrize("size", [480, 511, 427, 333, 640, 1023])
def test_grid_masks_of_photograph_sizes(size: int) -> None:
    """Of an odd height the middle row of seven lies on one pixel: a neighbour must not come in by rounding."""
    masks = np.random.default_rng(size).random((8, size, size)) < 0.5
    preprocess = Preprocess((0.0,) * 3, (1.0,) * 3, False, 60, "mean")
    got = preprocess.grid_masks(masks, (7, 7), 2, torch.device("cpu"))
    expected = preprocess.resize(torch.from_numpy(masks).float()[:, None], (7, 7))[:, 0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(got != 0, expected != 0)


@settings(deadline=None, max_examples=60)
@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 39)] * 4), min_size=1, max_size=6),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    seed=st.integers(0, 2**16),
)
def test_crops_cut_together_are_those_cut_one_by_one(
    boxes: list[tuple[int, int, int, int]], size: tuple[int, int], seed: int
) -> None:
    windows = np.array([[min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1] for a, b, c, d in boxes])
    rng = np.random.default_rng(seed)
    source = torch.from_numpy(rng.normal(size=(3, 40, 41)).astype(np.float32))
    masks = rng.random((len(boxes), 40, 41)) < 0.7
    preprocess = Preprocess((0.0,) * 3, (1.0,) * 3, False, 60, "reference")
    fill = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    got = cut_together(source, masks, windows, fill, size)
    torch.testing.assert_close(got, preprocess.local_views(source, masks, windows, size), rtol=0, atol=5e-5)


def test_half_precision_stays_close() -> None:
    masks = soft_masks([0.1, 0.5, 1.0])
    for dtype in (torch.bfloat16, torch.float16):
        cases: list[tuple[Any, int, Array]] = [
            (MaskedViT(random_model(VIT).visual, "token"), SIDE, masks),
            (MaskedResNet(random_model(RESNET).visual), 96, masks[:, :9]),
        ]
        for backbone, side, own in cases:
            results = []
            for kind in (torch.float32, dtype):
                backbone._visual.to(kind)
                with torch.inference_mode():
                    views = pixels(1, side).to(kind)
                    state = backbone.shared(views, [2])[2]
                    masked = backbone.masked(state, np.zeros(3, np.int64), as_grid(own), 2, 64)
                    results.append(torch.cat([masked, backbone.encode(views)]).float().numpy())
            assert 0 < relative(results[1], results[0]) < 0.15
