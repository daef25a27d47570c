"""CLIP features on tiny random models against plainly written oracles, and their invariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as reference

from stages.visual.encoder import MaskedClip
from stages.visual.preprocess import Preprocess, crop_windows, degenerate_boxes
from store.errors import ParameterError

WIDTH, HEADS, DEPTH, GRID, PATCH, SIDE = 64, 2, 4, 4, 8, 32
H, W = 40, 50
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH, "image_size": SIDE}
RESNET = {"layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "image_size": 96}
Array = NDArray[Any]


def random_model(vision: dict[str, Any], **options: Any) -> Any:
    """A CLIP in which no parameter keeps its start value, so that a forgotten bias or scale shows."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT, **options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clip_of(model: Any, **options: Any) -> MaskedClip:
    return MaskedClip(model, open_clip.SimpleTokenizer(), short_side=60, **options)


@pytest.fixture(scope="module")
def vit() -> Any:
    return random_model(VIT, quick_gelu=True)


@pytest.fixture(scope="module")
def resnet() -> Any:
    return random_model(RESNET)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def masks() -> Array:
    masks = np.zeros((7, H, W), dtype=bool)
    masks[0, 5:30, 10:45] = True
    masks[1, :, :25] = True
    masks[2] = True
    masks[3, 20, 20] = True  # too small for the grid
    masks[4, 0:12, 0:12] = masks[4, 28:, 30:] = True
    masks[5] = np.random.default_rng(1).random((H, W)) < 0.5
    return masks  # row 6 is empty


@pytest.fixture(scope="module")
def boxes() -> Array:
    return np.array(
        [[9.5, 4.5, 44.5, 29.5], [-0.5, -0.5, 24.5, 39.5], [-0.5, -0.5, 49.5, 39.5], [19.5, 19.5, 20.5, 20.5],
         [8.7, 9.2, 31.1, 28.8], [3, 4, 47, 38], [0, 0, 0, 0]]
    )  # fmt: skip


def relative(got: Array, expected: Array) -> float:
    return float((np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max(initial=0))


# Oracles, float64 NumPy written from the formulas.


def bilinear(plane: Array, size: tuple[int, int]) -> Array:
    """One plane at ``size``: align_corners false, four neighbours, no antialias."""
    out = np.zeros(size)
    for y, x in np.ndindex(*size):
        at = [max((i + 0.5) * old / new - 0.5, 0) for i, old, new in zip((y, x), plane.shape, size, strict=True)]
        (top, fy), (left, fx) = ((int(a), a - int(a)) for a in at)
        bottom, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
        upper = plane[top, left] * (1 - fx) + plane[top, right] * fx
        lower = plane[bottom, left] * (1 - fx) + plane[bottom, right] * fx
        out[y, x] = upper * (1 - fy) + lower * fy
    return out


def layer_norm(x: Array, state: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(q: Array, k: Array, v: Array, heads: int, allowed: Array) -> Array:
    """Multi-head attention of (T, width) projections; ``allowed`` (T, T) says which key a query may see."""
    parts = []
    for h in np.split(np.arange(q.shape[1]), heads):
        logits = np.where(allowed, q[:, h] @ k[:, h].T / np.sqrt(len(h)), -np.inf)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        parts.append(weights / weights.sum(1, keepdims=True) @ v[:, h])
    return np.concatenate(parts, axis=1)


def oracle_vit(model: Any, pixels: Array, soft: Array, k: int, masking: str) -> Array:
    """The global feature (D,) of one mask (GRID, GRID) for ``pixels`` (3, SIDE, SIDE)."""
    state = {name: value.double().numpy() for name, value in model.visual.state_dict().items()}
    patches = pixels.reshape(3, GRID, PATCH, GRID, PATCH).transpose(1, 3, 0, 2, 4).reshape(GRID * GRID, -1)
    x = np.vstack([state["class_embedding"], patches @ state["conv1.weight"].reshape(WIDTH, -1).T])
    x = layer_norm(x + state["positional_embedding"], state, "ln_pre")
    weight = np.append(1, soft.ravel())[:, None]
    for index in range(DEPTH):
        name = f"transformer.resblocks.{index}"
        allowed = np.ones((len(x), len(x)), dtype=bool)
        if index >= DEPTH - k and masking == "token":
            x = x * weight
        elif index >= DEPTH - k:
            allowed[0] = weight[:, 0] != 0
        y = layer_norm(x, state, f"{name}.ln_1")
        qkv = y @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
        y = attend(*np.split(qkv, 3, axis=1), HEADS, allowed)
        x = x + y @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        y = layer_norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
        y = y / (1 + np.exp(-1.702 * y))
        x = x + y @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    return layer_norm(x[0], state, "ln_post") @ state["proj"]


def oracle_pool(model: Any, features: Array) -> Array:
    """CLIP's attention pooling of (C, h, w) features: the mean over positions asks, mean and positions answer."""
    state = {name: value.double().numpy() for name, value in model.visual.attnpool.state_dict().items()}
    x = features.reshape(len(features), -1).T
    x = np.vstack([x.mean(0), x]) + state["positional_embedding"]
    q, k, v = (x @ state[f"{p}_proj.weight"].T + state[f"{p}_proj.bias"] for p in "qkv")
    pooled = attend(q, k, v, model.visual.attnpool.num_heads, np.ones((len(x), len(x)), dtype=bool))[0]
    return pooled @ state["c_proj.weight"].T + state["c_proj.bias"]


def normalised(image: Image.Image, mean: Any, std: Any, short_side: int = 60) -> torch.Tensor:
    return reference.normalize(reference.to_tensor(reference.resize(image, [short_side])), mean, std)


def imagenet(image: Image.Image) -> torch.Tensor:
    return normalised(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def resized(tensor: torch.Tensor, size: tuple[int, int]) -> Array:
    return np.stack([bilinear(plane, size) for plane in tensor.double().numpy()])


# Global features.


@pytest.mark.parametrize("masking", ["token", "attention"])
def test_vit_global_is_the_formula(vit: Any, image: Image.Image, masks: Array, masking: Any) -> None:
    pixels = resized(imagenet(image), (SIDE, SIDE))
    features = clip_of(vit, masking=masking).global_features_by_k(image, masks, [3, 1, 4, 2])
    for k in (1, 2, 3, 4):
        expected = [oracle_vit(vit, pixels, bilinear(mask * 1.0, (GRID, GRID)), k, masking) for mask in masks]
        assert features[k].dtype == np.float32
        assert relative(features[k], np.array(expected)) < 1e-5, k
    assert relative(features[1][:1], features[2][:1]) > 1e-2


def test_resnet_global_is_the_formula(resnet: Any, image: Image.Image, masks: Array) -> None:
    pixels = resized(imagenet(image), (96, 96)).astype(np.float32)
    visual = resnet.visual
    with torch.inference_mode():
        features = torch.from_numpy(pixels)[None]
        for stage in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = stage(features)
    unit = features[0].double().numpy()
    unit /= np.linalg.norm(unit, axis=0)
    expected = [oracle_pool(resnet, unit * bilinear(mask * 1.0, (3, 3))) for mask in masks]
    got = clip_of(resnet).global_features(image, masks)
    assert relative(got, np.array(expected)) < 1e-5
    assert len(set(np.linalg.norm(got, axis=1).round(4))) > 3, "global features of a ResNet keep their norms"


def test_mask_on_any_grid(vit: Any, image: Image.Image) -> None:
    model = random_model({**VIT, "image_size": (24, 40)})
    mask = np.zeros((1, H, W), dtype=bool)
    mask[:, :18, 4:49] = True
    clip = clip_of(model)
    soft = clip._preprocess.grid_masks(mask, clip._backbone.grid, 1, torch.device("cpu"))
    assert soft.shape == (1, 3, 5)
    np.testing.assert_allclose(soft[0], bilinear(mask[0] * 1.0, (3, 5)), atol=1e-6)
    assert clip.global_features(image, mask).shape == (1, 24)


CUSTOM = {"qk_norm": True, "scale_heads": True, "scale_attn": True, "ls_init_value": 0.1}


@pytest.mark.parametrize("vision", [VIT, {**VIT, **CUSTOM}, {**VIT, "ls_init_value": 0.5, "no_ln_pre": True}])
@pytest.mark.parametrize("masking", ["token", "attention"])
def test_full_mask_is_the_plain_encoder(vision: dict[str, Any], masking: Any, image: Image.Image) -> None:
    model = random_model(vision)
    pixels = torch.from_numpy(resized(imagenet(image), (SIDE, SIDE)).astype(np.float32))
    with torch.inference_mode():
        expected = model.encode_image(pixels[None]).numpy()
    full = np.ones((1, H, W), dtype=bool)
    for k in (1, DEPTH):
        assert relative(clip_of(model, masking=masking).global_features(image, full, k), expected) < 1e-5


def test_masks_that_miss_the_grid(vit: Any, image: Image.Image, masks: Array) -> None:
    clip = clip_of(vit)
    np.testing.assert_array_equal(clip.reaches_grid(masks), [True, True, True, False, True, True, False])
    features = clip.global_features(image, masks)
    assert relative(features[3], features[6]) < 1e-6
    assert np.isfinite(features).all()
    assert np.isfinite(clip_of(vit, masking="attention").global_features(image, masks)).all()


# Local features.


def local_oracle(encode: Callable[..., torch.Tensor], source: Array, masks: Array, boxes: Array, side: int) -> Array:
    rows = []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        filled = source.copy()
        for channel, colour in enumerate((0.485, 0.456, 0.406)):
            filled[channel][~mask] = colour
        crop = filled[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        view = resized(torch.from_numpy(crop), (side, side)).astype(np.float32)
        with torch.inference_mode():
            rows.append(encode(torch.from_numpy(view)[None])[0].numpy())
    return np.array(rows)


def test_vit_local(vit: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    source = resized(imagenet(image), (H, W))
    expected = local_oracle(vit.encode_image, source, masks, boxes, SIDE)
    assert relative(clip_of(vit).local_features(image, masks, boxes), expected) < 1e-5


def test_resnet_local_is_normalised(resnet: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    source = resized(imagenet(image), (H, W))
    expected = local_oracle(lambda x: resnet.encode_image(x, normalize=True), source, masks, boxes, 96)
    assert relative(clip_of(resnet).local_features(image, masks, boxes), expected) < 1e-5


def test_fill(image: Image.Image, masks: Array, boxes: Array) -> None:
    windows = crop_windows(boxes, H, W)
    for fill, colour in (("reference", [0.485, 0.456, 0.406]), ("mean", [0.0, 0.0, 0.0])):
        preprocess = Preprocess((0.1, 0.2, 0.3), (1.0, 0.9, 0.8), False, 60, fill)  # type: ignore[arg-type]
        source = preprocess.source_view(preprocess.prepare(image, torch.device("cpu")))
        views = preprocess.local_views(source, masks, windows, (8, 8)).numpy()
        np.testing.assert_allclose(views[6], np.broadcast_to(np.array(colour)[:, None, None], (3, 8, 8)), rtol=1e-6)
        # the full mask has no fill at all
        expected = resized(source[:, :39, :49], (8, 8))
        np.testing.assert_allclose(views[2], expected, atol=1e-5)


def test_boxes_are_truncated_clamped_and_widened() -> None:
    boxes = np.array(
        [[9.5, 4.5, 44.9, 29.5], [-0.5, 3, 0.5, 9], [4, -0.5, 9, 0.5], [-9, -9, 99, 99], [50, 40, 60, 60], [7, 8, 3, 2]]
    )  # fmt: skip
    windows = [[9, 4, 44, 29], [0, 3, 1, 9], [4, 0, 9, 1], [0, 0, 50, 40], [49, 39, 50, 40], [7, 8, 8, 9]]
    np.testing.assert_array_equal(crop_windows(boxes, H, W), windows)
    np.testing.assert_array_equal(degenerate_boxes(boxes, H, W), [False, True, True, False, True, True])
    assert crop_windows(np.zeros((0, 4)), H, W).shape == (0, 4)
    assert degenerate_boxes(np.zeros((0, 4)), H, W).shape == (0,)


@given(st.lists(st.tuples(*[st.floats(-20, 70, width=32)] * 4), min_size=1, max_size=5))
def test_every_window_holds_a_pixel(rows: list[tuple[float, float, float, float]]) -> None:
    windows = crop_windows(np.array(rows), H, W)
    for row, (left, top, right, bottom), widened in zip(
        rows, windows, degenerate_boxes(np.array(rows), H, W), strict=True
    ):
        assert 0 <= left < right <= W
        assert 0 <= top < bottom <= H
        x1, y1, x2, y2 = (min(max(int(v), 0), size) for v, size in zip(row, (W, H, W, H), strict=True))
        assert widened == (x2 <= x1 or y2 <= y1)
        if not widened:
            assert (left, top, right, bottom) == (x1, y1, x2, y2)


# Preprocessing.


def test_clip_preprocessing_antialiases_and_takes_the_models_statistics(image: Image.Image, masks: Array) -> None:
    model = random_model(VIT)
    model.visual.image_mean, model.visual.image_std = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    clip = MaskedClip(model, open_clip.SimpleTokenizer(), "clip", short_side=60)
    tensor = normalised(image, (0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    prepared = clip.prepare(image)
    torch.testing.assert_close(prepared.tensor, tensor)
    for got, expected in (
        (clip._preprocess.global_view(prepared, (SIDE, SIDE))[0], reference.resize(tensor, [SIDE, SIDE])),
        (clip._preprocess.source_view(prepared), reference.resize(tensor, [H, W])),
        (
            clip._preprocess.grid_masks(masks, (GRID, GRID), 2, torch.device("cpu")),
            reference.resize(torch.from_numpy(masks).float(), [GRID, GRID]),
        ),
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_clip_preprocessing_without_statistics_is_openais(vit: Any, image: Image.Image) -> None:
    clip = MaskedClip(vit, open_clip.SimpleTokenizer(), "clip", short_side=60)
    expected = normalised(image, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    torch.testing.assert_close(clip.prepare(image).tensor, expected)


@pytest.mark.parametrize("size", [(33, 57), (57, 33), (20, 20), (61, 90), (5, 300)])
def test_short_side(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    prepared = Preprocess((0.0,) * 3, (1.0,) * 3, False, 20, "mean").prepare(image, torch.device("cpu"))
    short, long = min(size), max(size)
    assert sorted(prepared.tensor.shape[1:]) == sorted([20, int(20 * long / short)])
    assert (prepared.width, prepared.height) == size
    torch.testing.assert_close(prepared.tensor, reference.to_tensor(reference.resize(image, [20])))


# Invariances.


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_batch_size_and_order_change_nothing(
    name: str, request: pytest.FixtureRequest, image: Image.Image, masks: Array, boxes: Array
) -> None:
    model = request.getfixturevalue(name)
    strings = ["a dog", "the man on the left", "x" * 30, "red", "", "cat . " * 40, "blue car"]
    order = np.random.default_rng(3).permutation(len(masks))
    plain = clip_of(model)
    for batch in (1, 3):
        clip = clip_of(model, batch=batch)
        prepared = clip.prepare(image)
        permuted = [strings[i] for i in order]
        for got, expected in (
            (clip.global_features(prepared, masks[order]), plain.global_features(image, masks)[order]),
            (
                clip.local_features(prepared, masks[order], boxes[order]),
                plain.local_features(image, masks, boxes)[order],
            ),
            (clip.text_features(permuted), plain.text_features(strings)[order]),
        ):
            assert relative(got, expected) < 1e-6


def test_several_k_in_one_pass_are_single_ones(vit: Any, image: Image.Image, masks: Array) -> None:
    clip = clip_of(vit)
    together = clip.global_features_by_k(clip.prepare(image), masks, [2, 4, 1, 2])
    assert sorted(together) == [1, 2, 4]
    for k, features in together.items():
        np.testing.assert_array_equal(features, clip.global_features(image, masks, k))


@settings(deadline=None, max_examples=15)
@given(rows=st.lists(st.integers(0, H * W - 1), max_size=60), k=st.integers(1, DEPTH))
def test_any_mask_is_the_formula(vit: Any, image: Image.Image, rows: list[int], k: int) -> None:
    mask = np.zeros((1, H, W), dtype=bool)
    mask.reshape(-1)[rows] = True
    mask = mask.repeat(2, axis=0)
    pixels = resized(imagenet(image), (SIDE, SIDE))
    expected = oracle_vit(vit, pixels, bilinear(mask[0] * 1.0, (GRID, GRID)), k, "token")
    assert relative(clip_of(vit).global_features(image, mask, k), expected[None]) < 1e-5


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_nothing_in_nothing_out(name: str, request: pytest.FixtureRequest, image: Image.Image) -> None:
    clip = clip_of(request.getfixturevalue(name))
    none = np.zeros((0, H, W), dtype=bool)
    for features in (
        clip.global_features(image, none),
        clip.local_features(image, none, np.zeros((0, 4))),
        clip.text_features([]),
    ):
        assert features.shape == (0, clip.dim) == (0, 24)
        assert features.dtype == np.float32
    assert clip.reaches_grid(none).shape == clip.truncated([]).shape == (0,)
    assert clip.truncated([]).dtype == bool


def test_inputs_are_left_alone_and_may_be_read_only(vit: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    frozen = np.broadcast_to(masks[0], (2, H, W))
    before = image.tobytes()
    clip = clip_of(vit)
    assert relative(clip.global_features(image, frozen), clip.global_features(image, masks[:1])) < 1e-6
    assert (
        relative(clip.local_features(image, frozen, boxes[[0, 0]]), clip.local_features(image, masks, boxes)[:1]) < 1e-6
    )
    assert image.tobytes() == before


def test_model_is_put_in_eval_mode(image: Image.Image, masks: Array) -> None:
    model = random_model(RESNET)
    expected = clip_of(model).global_features(image, masks)
    np.testing.assert_array_equal(clip_of(model.train()).global_features(image, masks), expected)


def test_dtype_follows_the_model(image: Image.Image, masks: Array, boxes: Array) -> None:
    model = random_model(VIT)
    clip = clip_of(model)
    exact = clip.global_features(image, masks), clip.local_features(image, masks, boxes), clip.text_features(["a dog"])
    model.to(torch.bfloat16)
    rounded = (
        clip.global_features(image, masks),
        clip.local_features(image, masks, boxes),
        clip.text_features(["a dog"]),
    )
    for got, expected in zip(rounded, exact, strict=True):
        assert got.dtype == np.float32
        assert 0 < relative(got, expected) < 0.1


def test_score_rule(vit: Any, resnet: Any) -> None:
    assert (clip_of(vit).score_rule, clip_of(resnet).score_rule) == ("cosine", "unnormalised")


# Text.


def test_text_is_open_clips(vit: Any) -> None:
    strings = ["a dog", "Ünïcode 猫", "", "word " * 100]
    with torch.inference_mode():
        expected = vit.encode_text(open_clip.SimpleTokenizer()(strings)).numpy()
    assert relative(clip_of(vit).text_features(strings), expected) < 1e-6


def test_truncated(vit: Any) -> None:
    # "!" has the token id 0, the padding's
    strings = ["dog " * 75, "dog " * 76, "dog " * 77, "! " * 75, "! " * 76, "! " * 77, "", "a dog"]
    got = clip_of(vit).truncated(strings)
    assert got.tolist() == [False, True, True, False, True, True, False, False]
    encode = open_clip.SimpleTokenizer().encode
    assert got.tolist() == [len(encode(text)) + 2 > 77 for text in strings]


# Errors.


def test_bad_arguments(vit: Any, resnet: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    clip = clip_of(vit)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("RGB, got L", lambda: clip.prepare(image.convert("L"))),
        ("RGB, got RGBA", lambda: clip.prepare(image.convert("RGBA"))),
        ("prepare it with this encoder", lambda: clip.prepare(clip_of(vit, fill="mean").prepare(image))),
        ("masks: expected bool", lambda: clip.global_features(image, masks.astype(np.uint8))),
        (rf"masks: expected bool \(N, {H}, {W}\)", lambda: clip.global_features(image, masks[:, 1:])),
        ("masks: expected bool", lambda: clip.local_features(image, masks[0], boxes)),
        ("boxes: expected one for each", lambda: clip.local_features(image, masks, boxes[1:])),
        (r"boxes: expected shape \(N, 4\)", lambda: clip.local_features(image, masks, boxes[:, :3])),
        ("row 1", lambda: crop_windows(np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]]), H, W)),
        ("masked_blocks: expected 1 to 4", lambda: clip.global_features(image, masks, 0)),
        ("got 5", lambda: clip.global_features_by_k(image, masks, [1, 5])),
        ("wrap it in a list", lambda: clip.text_features("a dog")),
        ("wrap it in a list", lambda: clip.truncated("a dog")),
        ("preprocess: expected one of reference, clip", lambda: clip_of(vit, preprocess="openai")),
        ("fill: expected one of reference, mean", lambda: clip_of(vit, fill="black")),
        ("masking: expected one of token, attention", lambda: clip_of(vit, masking="none")),
        ("only one that a ResNet has", lambda: clip_of(resnet, masking="attention")),
        ("batch: expected at least 1", lambda: clip_of(vit, batch=0)),
        ("short_side: expected at least 1", lambda: Preprocess((0.0,) * 3, (1.0,) * 3, False, 0, "mean")),
        ("pooled by its class token", lambda: clip_of(random_model({**VIT, "pool_type": "avg"}))),
        ("attentional pool", lambda: clip_of(random_model({**VIT, "attentional_pool": True, "attn_pooler_heads": 2}))),
        ("VisionTransformer or ModifiedResNet, got Linear", lambda: clip_of(Lookalike())),
    ]  # fmt: skip
    for message, call in cases:
        with pytest.raises(ParameterError, match=message):
            call()


class Lookalike(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Linear(1, 1)
