"""Views of dense CLIP: against the releases' own values, a plain float64 implementation, and maps upsampled by torch."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from stages.views.known import VIEWS
from stages.visual.dense import METHODS, dense_map, dense_patches, position_table
from stages.visual.encoder import MaskedClip
from store.errors import ParameterError
from tests.helpers.dense_oracles import Plain, plain_patches, unit
from tests.helpers.visual_oracles import (
    PATCH,
    RESNET,
    SIDE,
    VIT,
    Array,
    clip_of,
    random_model,
    relative,
    some_image,
    some_masks,
)
from tests.visual.test_visual_golden import GOLDEN, golden_clip, load, unpacked

RELEASES = [  # method, side, name in the golden file, every how many patches
    ("mask_clip", 224, "maskclip", 4),
    ("sclip", 224, "sclip", 4),
    ("clear_clip", 224, "clearclip", 4),
    ("nac_clip", 224, "naclip", 4),
    ("gem", 224, "gem224", 4),
    ("clear_clip", 448, "clearclip448", 16),
    ("gem", 448, "gem448", 8),
]


# The releases' own values


def vit_b16() -> MaskedClip:
    return golden_clip("ViT-B-16-quickgelu", "clip_vit_b16", "de2d4e92")


def astronaut() -> Image.Image:
    return Image.open(GOLDEN / "images/astronaut.png").convert("RGB")


@cache
def golden_patches(method: str, side: int) -> Array:
    return dense_patches(vit_b16(), astronaut(), method, side)


@pytest.mark.parametrize(("method", "side", "name", "step"), RELEASES)
def test_patches_are_those_of_the_releases(method: str, side: int, name: str, step: int) -> None:
    golden, got = load("dense_astronaut.npz"), golden_patches(method, side)
    assert got.shape == ((side // 16) ** 2, 512)
    assert got.dtype == np.float32
    stored = golden[name]  # rounded to float16: half of its last digit, and a little
    rounding = np.spacing(np.abs(stored)).astype(np.float64) / 2
    assert (np.abs(unit(got)[::step] - stored.astype(np.float64)) <= rounding + 2e-6).all()
    if f"{name}_raw2" in golden:
        assert relative(got[:2], golden[f"{name}_raw2"]) < 1e-5


def test_gem_at_448_is_the_releases_map() -> None:
    golden, got = load("dense_astronaut.npz"), golden_patches("gem", 448)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), golden["gem448_norm"], rtol=1e-5)
    grid = (unit(got) @ golden["text"].T).T.reshape(1, 3, 28, 28)
    np.testing.assert_allclose(grid[0], golden["gem448_grid"], atol=1e-6)
    up = functional.interpolate(torch.from_numpy(grid), (448, 448), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(up[:, 8::16, 8::16], golden["gem448_map_s16"], atol=1e-6)
    np.testing.assert_allclose(up.min((1, 2)), golden["gem448_upmin"], atol=1e-6)
    np.testing.assert_allclose(up.max((1, 2)), golden["gem448_upmax"], atol=1e-6)


def test_view_gem_scores_as_the_releases_map_does() -> None:
    """The mean inside of GEM's own map, upsampled to the image by torch, for masks of FreeSOLO and the golden hand masks."""
    golden, clip = load("dense_astronaut.npz"), load("clip_vit_b32_astronaut.npz")
    masks = np.concatenate([unpacked(load("freesolo_astronaut.npz"), "pred_masks")[:6], unpacked(clip, "hand_masks")])
    heat = torch.from_numpy(golden["gem448_grid"])[None].double()
    up = functional.interpolate(heat, masks.shape[1:], mode="bilinear", align_corners=False)[0].numpy()
    got = vit_b16().view_features("gem", astronaut(), masks) @ golden["text"].T
    np.testing.assert_allclose(got, [up[:, mask].mean(1) for mask in masks], atol=1e-6)


@pytest.mark.parametrize(("method", "side", "name"), [(m, s, n) for m, s, n, _ in RELEASES if s == 224 and m != "gem"])
def test_a_view_of_the_first_pixel_is_the_releases_first_patch(method: str, side: int, name: str) -> None:
    """Nothing is mixed where upsampling clamps: a mask of the corner's pixel holds the corner's patch."""
    picture = astronaut()
    mask = np.zeros((1, picture.height, picture.width), bool)
    mask[0, 0, 0] = True
    got = vit_b16().view_features(method, picture, mask, side=side)
    assert relative(got, unit(load("dense_astronaut.npz")[f"{name}_raw2"][:1])) < 1e-5


# The plain implementation (tests/helpers/dense_oracles.py)


@cache
def small(layers: int = 8, **options: Any) -> MaskedClip:
    size = options.pop("image_size", SIDE)
    return clip_of(random_model(VIT | {"layers": layers, "image_size": size} | options, quick_gelu=True))


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE, 3 * PATCH])
@pytest.mark.parametrize("method", METHODS)
def test_patches_are_those_of_a_plain_implementation(method: str, side: int) -> None:
    """At the encoder's own grid, at a finer and at a coarser one."""
    clip, image, grid = small(), some_image(), (side // PATCH, side // PATCH)
    expected = plain_patches(clip.model, image, method, grid)
    assert relative(dense_patches(clip, image, method, side), expected) < 2e-5


@pytest.mark.parametrize("method", METHODS)
def test_other_encoders_too(method: str) -> None:
    """An oblong input, layer scales, and fewer blocks than GEM and CLIP Surgery change; the default side."""
    clip, image = small(3, image_size=(SIDE, SIDE + 2 * PATCH), ls_init_value=0.7), some_image()
    times = 2 if method in ("gem", "clear_clip") else 1
    got, grid = dense_map(clip, image, method)
    assert grid == (4 * times, 6 * times)
    assert relative(got, plain_patches(clip.model, image, method, grid)) < 2e-5


def test_the_encoders_own_mean_and_std_are_used() -> None:
    model = random_model(VIT, quick_gelu=True)
    usual = dense_patches(clip_of(model), some_image(), "mask_clip")
    model.visual.image_mean, model.visual.image_std = (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)
    got = dense_patches(clip_of(model), some_image(), "mask_clip")
    assert relative(got, usual) > 0.01
    assert relative(got, plain_patches(model, some_image(), "mask_clip", (4, 4))) < 2e-5


@pytest.mark.parametrize("pooling", ["inside", "inside_minus_outside"])
@pytest.mark.parametrize("name", METHODS)
def test_a_view_is_the_mean_of_its_map_upsampled(name: str, pooling: str) -> None:
    clip, image, masks = small(), some_image(), some_masks()
    times = METHODS[name].enlarged
    grid = (SIDE // PATCH * times,) * 2
    vectors = unit(plain_patches(clip.model, image, name, grid))
    heat = torch.from_numpy(vectors.T.reshape(1, -1, *grid))
    up = functional.interpolate(heat, masks.shape[1:], mode="bilinear", align_corners=False)[0].numpy()
    got = clip.view_features(name, image, masks, pooling=pooling)
    assert got.dtype == np.float32
    for row, mask in zip(got, masks, strict=True):
        if not mask.any() or (pooling != "inside" and mask.all()):
            assert not row.any()
            continue
        expected = up[:, mask].mean(1) - (0 if pooling == "inside" else up[:, ~mask].mean(1))
        assert relative(row[None], expected[None]) < 1e-4


@pytest.mark.parametrize("side", [None, 2 * SIDE])
def test_text_region_is_a_loop_over_masks(side: int | None) -> None:
    clip, image, masks = small(), some_image(), some_masks()
    plain, length = Plain(clip.model), (side or SIDE) // PATCH
    x = plain.trunk(plain.tokens(image, (length, length), "bicubic_antialias"), plain.depth - 1)
    values = np.concatenate([v for _, _, v in plain.parts(plain.depth - 1, plain.norm(plain.depth - 1, x, 1))], 1)
    heat = torch.from_numpy(values[1:].T.reshape(1, -1, length, length))
    up = functional.interpolate(heat, masks.shape[1:], mode="bilinear", align_corners=False)[0].numpy()
    got = clip.view_features("text_region", image, masks, **({} if side is None else {"side": side}))
    for row, mask in zip(got, masks, strict=True):
        if not mask.any():
            assert not row.any()
            continue
        token = plain.out(plain.depth - 1, [up[:, mask].mean(1)[None]])
        expected = unit(plain.finish(plain.rest(plain.depth - 1, token)))
        assert relative(row[None], expected) < 1e-4


# What holds for any picture

NAMES = [*METHODS, "text_region"]


@pytest.mark.parametrize("name", NAMES)
def test_masks_do_not_matter_to_each_other(name: str) -> None:
    clip, image, masks = small(), some_image(), some_masks()
    whole = clip.view_features(name, image, masks)
    apart = np.concatenate([clip.view_features(name, image, part) for part in (masks[:1], masks[1:4], masks[4:])])
    np.testing.assert_allclose(apart, whole, atol=1e-6)
    assert clip.view_features(name, image, masks[:0]).shape == (0, clip.dim)
    ahead = clip.prepare(clip.shrink(image))  # as stage embed_masks does
    np.testing.assert_array_equal(clip.view_features(name, ahead, masks), whole)


@pytest.mark.parametrize("name", NAMES)
def test_masks_without_a_mean_are_marked(name: str) -> None:
    clip, masks = small(), some_masks()
    running = VIEWS[name].open(clip, {name: {}})
    running.add(clip.prepare(some_image()), masks, np.zeros((len(masks), 4)))
    found = running.finish()[name][0]
    np.testing.assert_array_equal(found.degenerate, ~masks.any((1, 2)))
    assert "empty" in found.reason


def test_labels_share_one_map_and_keep_apart_their_poolings(monkeypatch: pytest.MonkeyPatch) -> None:
    clip, image, masks = small(), some_image(), some_masks()
    settings = SimpleNamespace(settings={"gem": {"pooling": ["inside", "inside_minus_outside"], "side": [None, 32]}})
    labels = VIEWS["gem"].labels(settings)
    assert set(labels) == {"gem", "gem.side32", "gem.inside_minus_outside", "gem.inside_minus_outside.side32"}
    calls = []
    monkeypatch.setattr("stages.visual.dense.dense_map", lambda *args: calls.append(args) or dense_map(*args))
    running = VIEWS["gem"].open(clip, labels)
    running.add(clip.prepare(image), masks, np.zeros((len(masks), 4)))
    found = running.finish()
    assert len(calls) == 2
    for label, arguments in labels.items():
        np.testing.assert_array_equal(found[label][0].vectors, clip.view_features("gem", image, masks, **arguments))
    np.testing.assert_array_equal(
        found["gem.inside_minus_outside"][0].degenerate, masks.all((1, 2)) | ~masks.any((1, 2))
    )


def test_labels_by_default_and_of_one_setting() -> None:
    for name in NAMES:
        assert list(VIEWS[name].labels(SimpleNamespace(settings={}))) == [name]
    one = SimpleNamespace(settings={"sclip": {"pooling": "inside_minus_outside"}, "text_region": {"side": 448}})
    assert VIEWS["sclip"].labels(one) == {"sclip.inside_minus_outside": {"pooling": "inside_minus_outside"}}
    assert VIEWS["text_region"].labels(one) == {"text_region.side448": {"side": 448}}


@pytest.mark.parametrize(
    ("values", "said"),
    [({"sides": 224}, "sides.*knows pooling, side"), ({"pooling": "mean"}, "pooling"), ({"side": "big"}, "side")],
)
def test_faulty_settings_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=rf"embed_masks\.settings\.gem: .*{said}"):
        VIEWS["gem"].labels(SimpleNamespace(settings={"gem": values}))


@pytest.mark.parametrize("side", [-8, 30, 3])
def test_a_side_that_patches_do_not_fill_is_refused(side: int) -> None:
    with pytest.raises(ParameterError, match=f"side: expected a multiple of the patch size 8 x 8, pixels, got {side}"):
        dense_patches(small(), some_image(), "gem", side)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"'gemm'.*did you mean 'gem'"):
        dense_patches(small(), some_image(), "gemm")
    with pytest.raises(ParameterError, match=r"view gem: pooling: .*'inside_minus_outside', got 'outside'"):
        small().view_features("gem", some_image(), some_masks(), pooling="outside")
    with pytest.raises(ParameterError, match=r"view text_region: there is no setting 'pooling'.*knows side"):
        small().view_features("text_region", some_image(), some_masks(), pooling="inside")


@pytest.mark.parametrize("name", NAMES)
def test_encoders_without_such_patches_are_refused(name: str) -> None:
    kinds = "vit or timm" if name == "text_region" else "vit"
    image, masks = some_image(), some_masks()
    with pytest.raises(
        ParameterError, match=f"view {name}: expected an encoder of kind {kinds}, got one of kind resnet"
    ):
        clip_of(random_model(RESNET)).view_features(name, image, masks)
    with pytest.raises(
        ParameterError, match=f"view {name}: .*plain attention.*VisionTransformer with attention of its own"
    ):
        small(2, qk_norm=True).view_features(name, image, masks)


def test_patches_of_a_resnet_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"gem: expected an encoder of kind vit .*got ModifiedResNet;"):
        dense_patches(clip_of(random_model(RESNET)), some_image(), "gem")


def test_the_own_grid_keeps_the_table_itself() -> None:
    visual = small().model.visual
    for positions in ("bicubic_antialias", "bicubic_scaled", "bilinear"):
        assert torch.equal(position_table(visual, (4, 4), positions), visual.positional_embedding)
