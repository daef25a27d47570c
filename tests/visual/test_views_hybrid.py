"""The hybrid views against the release's own values, and against a plain float64 loop on tiny random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.visual.encoder import MaskedClip
from stages.visual.entry import preprocess_of
from stages.visual.hybrid import KERNEL, MaskImages, blurred
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD
from store.errors import ParameterError
from tests.helpers.visual_oracles import (
    DEPTH,
    GRID,
    HEADS,
    PATCH,
    RESNET,
    SIDE,
    VIT,
    WIDTH,
    Array,
    H,
    W,
    attend,
    bilinear,
    clip_of,
    layer_norm,
    random_model,
    relative,
    some_image,
    some_masks,
)
from tests.visual.test_visual_golden import GOLDEN, golden_weights, load, sampled, unpacked, worst

image = pytest.fixture(scope="module")(some_image)
masks = pytest.fixture(scope="module")(some_masks)
NAMES = ("hybrid_g2l", "hybrid_l2g", "hybrid")


@pytest.fixture(scope="module")
def vit() -> Any:
    return random_model(VIT, quick_gelu=True)


# The release's own values: ViT-B/16, the astronaut, 12 proposals and 6 masks made by hand.


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    return load("hybrid_astronaut.npz")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(GOLDEN / "images" / "astronaut.png").convert("RGB")


@pytest.fixture(scope="module")
def golden_masks() -> NDArray[np.bool_]:
    proposals = unpacked(load("freesolo_astronaut.npz"), "pred_masks")[:12]
    return np.concatenate([proposals, unpacked(load("clip_vit_b32_astronaut.npz"), "hand_masks")])


@pytest.fixture(scope="module")
def vit_b16() -> MaskedClip:
    weights = golden_weights()
    model = open_clip.create_model("ViT-B-16-quickgelu")
    shapes = model.state_dict()
    state = weights.fill_state_dict(shapes, weights.SEEDS["clip_vit_b16"])
    assert weights.checksum(state) == "de2d4e92"
    model.load_state_dict({name: value.reshape(shapes[name].shape) for name, value in state.items()})
    return MaskedClip(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"), batch=4)


def test_the_images_are_the_release_s(
    vit_b16: MaskedClip, picture: Image.Image, golden_masks: Array, golden: dict[str, Array]
) -> None:
    pixels = preprocess_of(vit_b16, "release", IMAGENET_MEAN, IMAGENET_STD)
    local, scene = MaskImages(vit_b16.prepare(picture), pixels, torch.device("cpu")).of(golden_masks, (224, 224))
    for name, views in (("local", local), ("global", scene)):
        np.testing.assert_allclose([sampled(v.numpy(), 256) for v in views], golden[f"{name}_sample"], atol=1e-6)
        stats = [[view.double().mean(), view.double().std(correction=0)] for view in views]
        np.testing.assert_allclose(stats, golden[f"{name}_stat"], atol=1e-6)
    soft = pixels.grid_masks(golden_masks, (14, 14), 64, torch.device("cpu")).numpy()
    np.testing.assert_allclose(soft, golden["masks14"], atol=5e-4)  # stored as float16
    assert (np.packbits(soft != 0) == golden["masks14_nonzero"]).all()


@pytest.mark.parametrize(
    ("name", "key", "rows"),
    [
        ("hybrid_g2l", "G2L", [0, 7, 13, 14, 15, 16]),
        ("hybrid_l2g", "L2G", [0, 7, 13, 14, 15, 16]),
        ("hybrid", "G2L_L2G", [3, 17]),
    ],
)
def test_the_vectors_are_the_release_s(
    vit_b16: MaskedClip,
    picture: Image.Image,
    golden_masks: Array,
    golden: dict[str, Array],
    name: str,
    key: str,
    rows: list[int],
) -> None:
    assert worst(vit_b16.view_features(name, picture, golden_masks[rows]), golden[key][rows]) < 1e-5


# The formula, written plainly.


def blur_loop(pixels: Array) -> Array:
    """One output value at a time, in whole numbers; the border is mirrored without repeating the edge."""
    height, width, channels = pixels.shape

    def mirrored(place: int, length: int) -> int:
        while length > 1 and not 0 <= place < length:
            place = -place if place < 0 else 2 * (length - 1) - place
        return place if length > 1 else 0

    out = np.zeros_like(pixels)
    for y, x, c in np.ndindex(height, width, channels):
        total = 0
        for dy, a in enumerate(KERNEL):
            row = mirrored(y + dy - 7, height)
            total += a * sum(b * int(pixels[row, mirrored(x + dx - 7, width), c]) for dx, b in enumerate(KERNEL))
        out[y, x, c] = (total + 32768) // 65536
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 4), (8, 7), (17, 21)])
def test_the_blur_is_the_loop(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    got = blurred(pixels)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, blur_loop(pixels))


def test_the_blur_is_a_symmetric_gaussian_that_keeps_flat_colours() -> None:
    assert sum(KERNEL) == 256
    assert KERNEL[::-1] == KERNEL
    for value in (0, 1, 127, 255):
        assert (blurred(np.full((9, 30, 3), value, np.uint8)) == value).all()


def tokens_of(state: dict[str, Array], pixels: Array) -> Array:
    patches = pixels.reshape(3, GRID, PATCH, GRID, PATCH).transpose(1, 3, 0, 2, 4).reshape(GRID * GRID, -1)
    x = np.vstack([state["class_embedding"], patches @ state["conv1.weight"].reshape(WIDTH, -1).T])
    return layer_norm(x + state["positional_embedding"], state, "ln_pre")


def block(state: dict[str, Array], index: int, x: Array, allowed: Array | None = None) -> Array:
    name = f"transformer.resblocks.{index}"
    y = layer_norm(x, state, f"{name}.ln_1")
    q, k, v = np.split(y @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"], 3, axis=1)
    y = attend(q, k, v, HEADS, np.ones((len(x), len(x)), bool) if allowed is None else allowed)
    x = x + y @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
    y = layer_norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
    return x + y / (1 + np.exp(-1.702 * y)) @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]


def images_of(image: Image.Image, mask: Array) -> tuple[Array, Array]:
    """The local image and the scene of a mask, (3, SIDE, SIDE) each."""
    original = np.array(image)
    mean, std = (np.array(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    local = (original.transpose(2, 0, 1) / 255 - mean) / std
    for channel, colour in enumerate((0.48145466, 0.4578275, 0.40821073)):
        local[channel][~mask] = colour
    scene = original.copy()
    scene[~mask] = blur_loop(original)[~mask]
    small = np.stack([bilinear(plane / 255, (SIDE, SIDE)) for plane in scene.transpose(2, 0, 1)])
    return np.stack([bilinear(plane, (SIDE, SIDE)) for plane in local]), (small - mean) / std


def oracle(model: Any, image: Image.Image, mask: Array, k: int) -> dict[str, Array]:
    """The three vectors of one mask."""
    state = {name: value.double().numpy() for name, value in model.visual.state_dict().items()}
    local, scene = (tokens_of(state, pixels) for pixels in images_of(image, mask))
    for index in range(DEPTH - k):
        local, scene = block(state, index, local), block(state, index, scene)
    weight = np.append(1, bilinear(mask * 1.0, (GRID, GRID)).ravel())[:, None]
    allowed = np.ones((len(weight), len(weight)), bool)
    allowed[0] = weight[:, 0] != 0
    plain_local, plain_scene, hybrid_local, hybrid_scene = local, scene, local, scene
    for index in range(DEPTH - k, DEPTH):
        hybrid_local = block(state, index, hybrid_local + 2 * weight * plain_scene)
        hybrid_scene = block(state, index, plain_local + 2 * hybrid_scene, allowed)
        plain_local, plain_scene = block(state, index, plain_local), block(state, index, plain_scene, allowed)
    g2l, l2g = (layer_norm(x[0], state, "ln_post") @ state["proj"] for x in (hybrid_local, hybrid_scene))
    return {"hybrid_g2l": g2l, "hybrid_l2g": l2g, "hybrid": g2l + l2g}


@pytest.mark.parametrize("k", [1, 3, DEPTH])
def test_hybrid_views_are_the_formula(vit: Any, image: Image.Image, masks: Array, k: int) -> None:
    expected = [oracle(vit, image, mask, k) for mask in masks]
    for name in NAMES:
        got = clip_of(vit).view_features(name, image, masks, masked_blocks=k)
        assert got.dtype == np.float32
        assert relative(got, np.array([each[name] for each in expected])) < 1e-5, name


# Invariances, and what cannot be.


def test_hybrid_is_the_sum_to_the_bit(vit: Any, image: Image.Image, masks: Array) -> None:
    g2l, l2g, both = (clip_of(vit).view_features(name, image, masks) for name in NAMES)
    np.testing.assert_array_equal(both, g2l + l2g)
    assert relative(g2l, l2g) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_order_change_nothing(vit: Any, image: Image.Image, masks: Array, name: str) -> None:
    whole = clip_of(vit).view_features(name, image, masks)
    assert relative(clip_of(vit, batch=2).view_features(name, image, masks), whole) < 1e-5
    assert relative(clip_of(vit).view_features(name, image, masks[::-1])[::-1], whole) < 1e-5
    alone = clip_of(vit)
    assert relative(alone.view_features(name, alone.prepare(image), masks[2:3]), whole[2:3]) < 1e-5
    assert clip_of(vit).view_features(name, image, masks[:0]).shape == (0, 24)


def test_masks_that_miss_the_grid_are_degenerate(vit: Any, image: Image.Image, masks: Array) -> None:
    from stages.views.known import VIEWS

    encoder = clip_of(vit)
    for name in NAMES:
        running = VIEWS[name].open(encoder, {name: {}})
        running.add(encoder.prepare(image), masks, np.zeros((len(masks), 4)))
        found = running.finish()[name][0]
        np.testing.assert_array_equal(found.degenerate, [False, False, False, True, False, False, True])
        assert np.isfinite(found.vectors).all()
        assert "grid" in found.reason


def test_release_s_preprocessing_does_not_follow_the_encoder_s(vit: Any, image: Image.Image, masks: Array) -> None:
    """By default the values are the release's whatever the encoder is told; ``encoder`` is the other choice."""
    reference, as_trained = clip_of(vit), clip_of(vit, preprocess="clip", fill="mean")
    for name in NAMES:
        released = reference.view_features(name, image, masks)
        assert relative(as_trained.view_features(name, image, masks), released) < 1e-6
        assert relative(reference.view_features(name, image, masks, preprocess="encoder"), released) < 1e-6
        assert relative(as_trained.view_features(name, image, masks, preprocess="encoder"), released) > 1e-2


def test_the_encoder_s_own_preprocessing_fills_with_its_mean_colour(vit: Any, image: Image.Image, masks: Array) -> None:
    encoder = clip_of(vit, preprocess="clip", fill="mean")
    local, _ = MaskImages(encoder.prepare(image), encoder.pixels, encoder.device).of(masks[6:], (SIDE, SIDE))
    assert not local.any(), "an empty mask leaves the mean colour alone"


def test_another_encoder_or_parameter_is_told(vit: Any, image: Image.Image, masks: Array) -> None:
    with pytest.raises(ParameterError, match=r"hybrid.* kind vit, got one of kind resnet"):
        clip_of(random_model(RESNET)).view_features("hybrid_g2l", image, masks)
    encoder = clip_of(vit)
    with pytest.raises(ParameterError, match=rf"masked_blocks: expected .*1 to {DEPTH}.*got 0"):
        encoder.view_features("hybrid", image, masks, masked_blocks=0)
    with pytest.raises(ParameterError, match=r"masked_blocks: expected a valid integer.*got 2\.5"):
        encoder.view_features("hybrid", image, masks, masked_blocks=2.5)
    with pytest.raises(ParameterError, match=r"preprocess: expected 'release' or 'encoder', got 'clip'"):
        encoder.view_features("hybrid_l2g", image, masks, preprocess="clip")
    with pytest.raises(ParameterError, match=r"view hybrid: .*'masked_block'; did you mean 'masked_blocks'"):
        encoder.view_features("hybrid", image, masks, masked_block=2)


def test_masks_on_a_grid_that_is_not_square(image: Image.Image, masks: Array) -> None:
    model = random_model({**VIT, "image_size": (24, 40)})
    assert clip_of(model).view_features("hybrid", image, masks).shape == (7, 24)
    assert masks.shape[1:] == (H, W)
