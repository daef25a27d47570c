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
from PIL import Image

from stages.visual.preprocess import Preprocess, crop_windows
from store.errors import ParameterError
from tests.helpers.visual_oracles import (
    DEPTH,
    GRID,
    RESNET,
    SIDE,
    VIT,
    Array,
    H,
    W,
    bilinear,
    clip_of,
    imagenet,
    local_oracle,
    oracle_pool,
    oracle_vit,
    random_model,
    relative,
    resized,
    some_boxes,
    some_image,
    some_masks,
)


@pytest.fixture(scope="module")
def vit() -> Any:
    return random_model(VIT, quick_gelu=True)


@pytest.fixture(scope="module")
def resnet() -> Any:
    return random_model(RESNET)


image = pytest.fixture(scope="module")(some_image)
masks = pytest.fixture(scope="module")(some_masks)
boxes = pytest.fixture(scope="module")(some_boxes)


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
    soft = clip.pixels.grid_masks(mask, clip.tower.grid, 1, torch.device("cpu"))
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


def test_vit_local(vit: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    source = resized(imagenet(image), (H, W))
    expected = local_oracle(vit.encode_image, source, masks, boxes, SIDE)
    assert relative(clip_of(vit).local_features(image, masks, boxes), expected) < 1e-5


def test_resnet_local_is_normalised(resnet: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    source = resized(imagenet(image), (H, W))
    expected = local_oracle(lambda x: resnet.encode_image(x, normalize=True), source, masks, boxes, 96)
    assert relative(clip_of(resnet).local_features(image, masks, boxes), expected) < 1e-5


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


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_masks_that_are_equal_on_the_grid_are_encoded_once(
    name: str, request: pytest.FixtureRequest, image: Image.Image, masks: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a tie stays one whatever else is in the pass; those of two images are apart though their masks are equal."""
    clip, seen = clip_of(request.getfixturevalue(name), batch=3), []
    masked = clip.tower.masked

    def counted(states: Any, owners: Array, masks: Any, k: int, batch: int) -> Any:
        seen.extend(owners.tolist())
        return masked(states, owners, masks, k, batch)

    monkeypatch.setattr(clip.tower, "masked", counted)
    twice = np.concatenate([masks, masks[::-1]])
    scenes = [
        (clip.prepare(image), twice, np.zeros((len(twice), 4))),
        (clip.prepare(image), masks[:2], np.zeros((2, 4))),
    ]
    scenes.insert(1, (clip.prepare(image), masks[:0], np.zeros((0, 4))))
    first, none, last = (found.by_k[2] for found in clip.encode_images(scenes, [2], local=False))
    assert seen == [0] * (len(masks) - 1) + [2] * 2, "rows 3 and 6 do not reach the grid: one mask there"
    np.testing.assert_array_equal(first[: len(masks)], first[len(masks) :][::-1])
    np.testing.assert_array_equal(first[3], first[6])
    assert none.shape == (0, clip.dim)
    assert relative(last, first[:2]) < 1e-6
    alone = np.concatenate([clip.global_features(image, masks[[row]], 2) for row in range(len(masks))])
    assert relative(first[: len(masks)], alone) < 1e-6


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
        ("VisionTransformer.*ModifiedResNet.*image encoder is Linear", lambda: clip_of(Lookalike())),
    ]  # fmt: skip
    for message, call in cases:
        with pytest.raises(ParameterError, match=message):
            call()


class Lookalike(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Linear(1, 1)


def test_view_features_are_the_named_features(vit: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    clip = clip_of(vit)
    for k in (1, 3):
        found = clip.view_features("global", image, masks, masked_blocks=k)
        np.testing.assert_array_equal(found, clip.global_features(image, masks, k))
    np.testing.assert_array_equal(
        clip.view_features("local", clip.prepare(image), masks, boxes), clip.local_features(image, masks, boxes)
    )
    tight = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        tight.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4)
    np.testing.assert_array_equal(
        clip.view_features("local", image, masks), clip.local_features(image, masks, np.array(tight, float))
    )
    with pytest.raises(ParameterError, match="no view 'locl'; did you mean 'local'"):
        clip.view_features("locl", image, masks)
