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
from tests.helpers.visual_oracles import (
    HEADS,
    PATCH,
    RESNET,
    SIDE,
    VIT,
    Array,
    bilinear,
    clip_of,
    layer_norm,
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
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


# The releases' own values


def vit_b16() -> MaskedClip:
    return golden_clip("ViT-B-16-quickgelu", "clip_vit_b16", "de2d4e92")


def astronaut() -> Image.Image:
    return Image.open(GOLDEN / "images/astronaut.png").convert("RGB")


@cache
def golden_patches(method: str, side: int) -> Array:
    return dense_patches(vit_b16(), astronaut(), method, side)


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


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


# A plain implementation: float64, one head at a time, from the formulas


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


class Plain:
    """A small transformer of known width, its weights as float64 arrays."""

    def __init__(self, model: Any) -> None:
        self.state = {name: value.double().numpy() for name, value in model.visual.state_dict().items()}
        self.own = tuple(model.visual.grid_size)
        self.depth = len(model.visual.transformer.resblocks)
        self.mean = getattr(model.visual, "image_mean", MEAN)
        self.std = getattr(model.visual, "image_std", STD)

    def tokens(self, image: Image.Image, grid: tuple[int, int], positions: str) -> Array:
        size = (grid[1] * PATCH, grid[0] * PATCH)
        pixels = (np.array(image.resize(size, Image.Resampling.BICUBIC)) / 255 - self.mean) / self.std
        patches = pixels.reshape(grid[0], PATCH, grid[1], PATCH, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3 * PATCH**2)
        kernel = self.state["conv1.weight"]
        x = np.vstack([self.state["class_embedding"], patches @ kernel.reshape(len(kernel), -1).T])
        table = self.state["positional_embedding"]
        cells = table[1:].reshape(*self.own, -1)
        if grid != self.own and positions == "bilinear":
            cells = np.stack([bilinear(cells[..., c], grid) for c in range(cells.shape[2])], -1)
        elif grid != self.own:
            rows, columns = (cubic(n, o, positions) for n, o in zip(grid, self.own, strict=True))
            cells = np.einsum("yr,xc,rcd->yxd", rows, columns, cells)
        x = x + np.vstack([table[:1], cells.reshape(-1, cells.shape[2])])
        return layer_norm(x, self.state, "ln_pre")

    def parts(self, index: int, y: Array) -> list[tuple[Array, Array, Array]]:
        """q, k, v of each head."""
        name = f"transformer.resblocks.{index}.attn"
        qkv = y @ self.state[f"{name}.in_proj_weight"].T + self.state[f"{name}.in_proj_bias"]
        return list(zip(*(np.split(part, HEADS, 1) for part in np.split(qkv, 3, 1)), strict=True))

    def norm(self, index: int, x: Array, which: int) -> Array:
        return layer_norm(x, self.state, f"transformer.resblocks.{index}.ln_{which}")

    def out(self, index: int, heads: list[Array]) -> Array:
        name = f"transformer.resblocks.{index}"
        found = np.concatenate(heads, 1) @ self.state[f"{name}.attn.out_proj.weight"].T
        return (found + self.state[f"{name}.attn.out_proj.bias"]) * self.state.get(f"{name}.ls_1.gamma", 1)

    def rest(self, index: int, x: Array) -> Array:
        """x with what the perceptron adds."""
        name = f"transformer.resblocks.{index}"
        y = self.norm(index, x, 2) @ self.state[f"{name}.mlp.c_fc.weight"].T + self.state[f"{name}.mlp.c_fc.bias"]
        y = y / (1 + np.exp(-1.702 * y))
        y = y @ self.state[f"{name}.mlp.c_proj.weight"].T + self.state[f"{name}.mlp.c_proj.bias"]
        return x + y * self.state.get(f"{name}.ls_2.gamma", 1)

    def block(self, index: int, x: Array) -> Array:
        heads = self.parts(index, self.norm(index, x, 1))
        return self.rest(index, x + self.out(index, [softmax(q @ k.T / len(q.T) ** 0.5) @ v for q, k, v in heads]))

    def trunk(self, x: Array, blocks: int) -> Array:
        for index in range(blocks):
            x = self.block(index, x)
        return x

    def finish(self, x: Array) -> Array:
        return layer_norm(x, self.state, "ln_post") @ self.state["proj"]


def cubic(new: int, old: int, positions: str) -> Array:
    """One axis of a bicubic resize (new, old), as torch defines it without and with antialias."""

    def kernel(x: float, a: float) -> float:
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    matrix = np.zeros((new, old))
    for row in range(new):
        if positions == "bicubic_scaled":
            place = (row + 0.5) * old / (new + 0.1) - 0.5
            for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
                matrix[row, min(max(tap, 0), old - 1)] += kernel(place - tap, -0.75)
        else:
            stretch = max(old / new, 1)
            for tap in range(old):
                matrix[row, tap] = kernel((tap + 0.5 - (row + 0.5) * old / new) / stretch, -0.5)
            matrix[row] /= matrix[row].sum()
    return matrix


def gaussian(grid: tuple[int, int]) -> Array:
    omega = np.zeros((1 + grid[0] * grid[1],) * 2)
    for i, a in enumerate(np.ndindex(*grid)):
        for j, b in enumerate(np.ndindex(*grid)):
            omega[1 + i, 1 + j] = np.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / 50)
    return omega


def plain_patches(model: Any, image: Image.Image, method: str, grid: tuple[int, int]) -> Array:
    plain = Plain(model)
    rules = {"gem": "bicubic_antialias", "clip_surgery": "bilinear"}
    x = plain.tokens(image, grid, rules.get(method, "bicubic_scaled"))
    last = plain.depth - 1
    if method in ("gem", "clip_surgery"):
        start = max(plain.depth - 6, 0)
        x = plain.trunk(x, start)
        second = x.copy()
        for index in range(start, plain.depth):
            y = plain.norm(index, x, 1)
            heads = plain.parts(index, y)
            scale = len(heads[0][0].T) ** -0.5
            if method == "gem":
                tau = np.linalg.norm(y, axis=1).mean() * scale
                found = []
                for q, k, v in heads:
                    each = []
                    for u in map(unit, (q, k, v)):
                        drawn = unit(softmax(tau * u @ u.T) @ u)
                        each.append(softmax(tau * drawn @ drawn.T) @ v)
                    found.append(sum(each) / 3)
            else:
                found = [softmax(scale * v @ v.T) @ v for _, _, v in heads]
            second = second + plain.out(index, found)
            x = plain.block(index, x)
        return plain.finish(second[1:])
    x = plain.trunk(x, last)
    heads = plain.parts(last, plain.norm(last, x, 1))
    scale = len(heads[0][0].T) ** -0.5
    attended = {
        "mask_clip": lambda q, k, v: v,
        "sclip": lambda q, k, v: (softmax(scale * q @ q.T) + softmax(scale * k @ k.T)) @ v,
        "clear_clip": lambda q, k, v: softmax(scale * q @ q.T) @ v,
        "nac_clip": lambda q, k, v: softmax(scale * k @ k.T + gaussian(grid)) @ v,
    }[method]
    found = plain.out(last, [attended(*head) for head in heads])
    if method == "sclip":
        found = plain.rest(last, x + found)
    return plain.finish(found[1:])


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
    image, masks = some_image(), some_masks()
    with pytest.raises(ParameterError, match=f"view {name}: expected an encoder of kind vit, got one of kind resnet"):
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
