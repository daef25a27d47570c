"""The paper's baselines as views: against the releases' values, and against dense maps, autograd and loops over masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from stages import embed_masks
from stages.views.registry import VIEWS, labels_of
from stages.visual.encoder import MaskedClip
from stages.visual.pooling import area_shares
from stages.visual.region_tokens import sampled_cells
from store.errors import ParameterError
from tests.helpers.baseline_oracles import means, plain_cells, plain_grad_cam, plain_region_token, plain_score_map
from tests.helpers.visual_oracles import (
    GRID,
    RESNET,
    SIDE,
    VIT,
    Array,
    bilinear,
    clip_of,
    imagenet,
    oracle_vit,
    random_model,
    relative,
    resized,
    some_image,
    some_masks,
)
from tests.visual.test_visual_golden import GOLDEN, golden_clip, load, unpacked

TOLERANCE = 1e-4  # relative L2 of a row
HEAT_MAPS = ("score_map", "grad_cam")


@pytest.fixture(scope="module")
def resnet() -> Any:
    return random_model(RESNET)


@pytest.fixture(scope="module")
def vit() -> Any:
    return random_model(VIT, quick_gelu=True)


image = pytest.fixture(scope="module")(some_image)
masks = pytest.fixture(scope="module")(some_masks)
"""Row 2 is the whole image, row 6 is empty."""


# What the release computes.


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return load("baselines_astronaut.npz")


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    with Image.open(GOLDEN / "images" / "astronaut.png") as opened:
        return opened.convert("RGB")


@pytest.fixture(scope="module")
def golden_masks() -> Array:
    hand = unpacked(load("clip_vit_b32_astronaut.npz"), "hand_masks")
    return np.concatenate([unpacked(load("freesolo_astronaut.npz"), "pred_masks"), hand])


@pytest.fixture(scope="module")
def rn50() -> MaskedClip:
    return golden_clip("RN50-quickgelu", "clip_rn50", "9ccf576b")


@pytest.fixture(scope="module")
def texts(rn50: MaskedClip, golden: dict[str, Array]) -> Array:
    found = rn50.text_features(golden["texts"].tolist())
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(unit[:, ::8], golden["text_rn50"], atol=1e-6)
    return unit


@pytest.mark.parametrize(
    ("name", "arguments", "key", "sign"),
    [
        ("score_map", {}, "sm_clip", 1),
        ("score_map", {"bias": "clip"}, "sm_clip", 1),
        ("score_map", {"bias": "none"}, "sm_none", 1),
        ("grad_cam", {}, "gc", -1),
        ("grad_cam", {"sign": "released"}, "gc", 1),
    ],
)
def test_heat_maps_are_the_release(
    rn50: MaskedClip,
    astronaut: Image.Image,
    golden_masks: Array,
    golden: dict[str, Array],
    texts: Array,
    name: str,
    arguments: dict[str, str],
    key: str,
    sign: int,
) -> None:
    """Means of the release's maps inside the masks, and inside minus outside."""
    prepared = rn50.prepare(astronaut)
    inside, outside = sign * golden[f"{key}_in"], sign * golden[f"{key}_out"]
    got = rn50.view_features(name, prepared, golden_masks, **arguments)
    assert (got.dtype, got.shape) == (np.float32, (len(golden_masks), 1024))
    assert relative(texts @ got.T, inside) < TOLERANCE
    assert relative(got @ texts.T, inside.T) < TOLERANCE
    difference = rn50.view_features(name, prepared, golden_masks, pooling="inside_minus_outside", **arguments)
    whole = golden_masks.all((1, 2))
    assert whole.sum() == 1
    assert not difference[whole].any()
    assert relative(texts @ difference[~whole].T, (inside - outside)[:, ~whole]) < TOLERANCE


def test_region_token_is_the_release(astronaut: Image.Image, golden_masks: Array, golden: dict[str, Array]) -> None:
    clip = golden_clip("ViT-B-32-quickgelu", "clip_vit_b32", "c8e4603d")
    cells = unpacked(golden, "rt_mask7")
    np.testing.assert_array_equal(sampled_cells(golden_masks, (7, 7)), cells)
    got = clip.view_features("region_token", astronaut, golden_masks)
    assert got.dtype == np.float32
    assert relative(got, golden["rt_feat"]) < TOLERANCE
    found = VIEWS["region_token"].open(clip, {"own": {"reference": True}})
    found.add(clip.prepare(astronaut), golden_masks, np.zeros((len(golden_masks), 4)))
    assert found.finish()["own"][0].degenerate.tolist() == (~cells.any((1, 2))).tolist()
    assert (~cells.any((1, 2))).sum() == 2


# Plain implementations (tests/helpers/baseline_oracles.py) on a small random encoder.


PLAIN: list[tuple[str, str, str, Callable[..., torch.Tensor]]] = [
    ("score_map", "bias", "clip", plain_score_map),
    ("score_map", "bias", "none", plain_score_map),
    ("grad_cam", "sign", "usual", plain_grad_cam),
    ("grad_cam", "sign", "released", plain_grad_cam),
]


@pytest.mark.parametrize("pooling", ["inside", "inside_minus_outside"])
@pytest.mark.parametrize(("name", "setting", "variant", "plain"), PLAIN)
def test_heat_maps_are_the_dense_map(
    resnet: Any,
    image: Image.Image,
    masks: Array,
    name: str,
    setting: str,
    variant: str,
    plain: Callable[..., torch.Tensor],
    pooling: str,
) -> None:
    texts = functional.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    got = clip_of(resnet).view_features(name, image, masks, pooling=pooling, **{setting: variant})
    defined = [m for m in range(len(masks)) if masks[m].any() and not (masks[m].all() and pooling != "inside")]
    heat = plain(resnet, image, texts, variant)
    expected = means(heat, masks[defined], pooling != "inside")
    error = np.linalg.norm(got[defined] @ texts.numpy().T - expected, axis=1)
    assert (
        error / np.linalg.norm(means(heat, masks[defined], False), axis=1)
    ).max() < 2e-5  # a difference may be nearly 0
    assert not got[[m for m in range(len(masks)) if m not in defined]].any()


@pytest.mark.parametrize("name", HEAT_MAPS)
def test_masks_that_cannot_be_pooled_are_degenerate(resnet: Any, image: Image.Image, masks: Array, name: str) -> None:
    settings = embed_masks.Params(settings={name: {"pooling": ["inside", "inside_minus_outside"]}})
    labels = {label: own for label, (_, own) in labels_of([name], settings).items()}
    assert list(labels) == [name, f"{name}.inside_minus_outside"]
    view = labels_of([name], settings)[name][0]
    clip = clip_of(resnet)
    running = view.open(clip, labels)
    for picture, own in ((image, masks), (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), masks[:0])):
        running.add(clip.prepare(picture), own, np.zeros((len(own), 4)))
    found = running.finish()
    assert [each.vectors.shape for each in found[name]] == [(7, 24), (0, 24)]
    inside, difference = found[name][0], found[f"{name}.inside_minus_outside"][0]
    assert inside.degenerate.tolist() == [False] * 6 + [True]
    assert difference.degenerate.tolist() == [False, False, True, False, False, False, True]
    assert inside.reason
    np.testing.assert_array_equal(inside.vectors, clip.view_features(name, image, masks))


@pytest.mark.parametrize("batch", [3, 64])
@pytest.mark.parametrize("reference", [True, False])
def test_region_tokens_are_a_loop_over_masks(
    vit: Any, image: Image.Image, masks: Array, reference: bool, batch: int
) -> None:
    clip = clip_of(vit, batch=batch)
    pixels = resized(imagenet(image), (SIDE, SIDE))
    cells = [plain_cells(mask, reference) for mask in masks]
    expected = np.array([plain_region_token(vit, pixels, own, reference) for own in cells])
    running = VIEWS["region_token"].open(clip, {"own": {"reference": reference}})
    running.add(clip.prepare(image), masks, np.zeros((len(masks), 4)))
    (found,) = running.finish()["own"]
    assert relative(found.vectors, expected) < 1e-5
    assert found.degenerate.tolist() == [not own.any() for own in cells]
    assert found.degenerate.tolist() == [False, False, False, reference, False, False, True]
    np.testing.assert_array_equal(clip.view_features("region_token", image, masks, reference=reference), found.vectors)


def test_region_tokens_of_other_masks_and_of_other_attention(image: Image.Image, masks: Array) -> None:
    """Masks do not depend on each other, nor blocks on being open_clip's plain ones."""
    custom = {"qk_norm": True, "scale_heads": True, "scale_attn": True, "ls_init_value": 0.1}
    for vision in (VIT, {**VIT, **custom}):
        clip = clip_of(random_model(vision))
        prepared = clip.prepare(image)
        together = clip.view_features("region_token", prepared, masks)
        alone = np.concatenate([clip.view_features("region_token", prepared, mask[None]) for mask in masks])
        assert relative(together, alone) < 1e-5
        assert relative(together[:1], together[1:2]) > 1e-2
        assert clip.view_features("region_token", prepared, masks[:0]).shape == (0, 24)
    other = clip.view_features("region_token", image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), masks)
    assert relative(other[6:], together[6:]) < 1e-5  # without a cell: the same for any image
    assert relative(other[5:6], together[5:6]) > 1e-3


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_area_shares_add_up(grid: tuple[int, int], size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((1, *size)) < 0.5
    shares = area_shares(np.concatenate([mask, ~mask, mask | ~mask]), grid)
    np.testing.assert_allclose(shares[0] + shares[1], 1, atol=1e-12)
    np.testing.assert_allclose(shares[2], 1, atol=1e-12)
    assert shares[0].mean() == pytest.approx(mask.mean())


# View global, by either masking.


@pytest.mark.parametrize("k", [1, 3])
def test_masking_is_a_setting_of_view_global(vit: Any, image: Image.Image, masks: Array, k: int) -> None:
    pixels, clip = resized(imagenet(image), (SIDE, SIDE)), clip_of(vit)
    soft = [bilinear(mask * 1.0, (GRID, GRID)) for mask in masks]
    settings = embed_masks.Params(masked_blocks=[k, 2], settings={"global": {"masking": ["token", "attention"]}})
    labels = {label: own for label, (_, own) in labels_of(["global"], settings).items()}
    assert list(labels) == [f"global.{rest}" for m in ("", "attention.") for rest in sorted((f"{m}k{k}", f"{m}k2"))]
    running = VIEWS["global"].open(clip, labels)
    running.add(clip.prepare(image), masks, np.zeros((len(masks), 4)))
    found = running.finish()
    for masking, label in (("token", f"global.k{k}"), ("attention", f"global.attention.k{k}")):
        expected = np.array([oracle_vit(vit, pixels, own, k, masking) for own in soft])
        assert relative(found[label][0].vectors, expected) < 1e-5
        assert found[label][0].degenerate.tolist() == [False, False, False, True, False, False, True]
        direct = clip.view_features("global", image, masks, masking=masking, masked_blocks=k)
        assert relative(direct, expected) < 1e-5
        other = clip_of(vit, masking=masking).view_features("global", image, masks, masked_blocks=k)
        assert relative(other, expected) < 1e-5  # what the encoder was told, where the view is not


def test_a_resnet_masks_in_one_way(resnet: Any, image: Image.Image, masks: Array) -> None:
    with pytest.raises(ParameterError, match="masking: expected 'token', the only one that a ResNet has"):
        clip_of(resnet).view_features("global", image, masks, masking="attention")


# Settings, labels, encoders.


@pytest.mark.parametrize("name", HEAT_MAPS)
def test_masks_do_not_depend_on_each_other(resnet: Any, image: Image.Image, masks: Array, name: str) -> None:
    clip = clip_of(resnet)
    prepared = clip.prepare(image)
    together = clip.view_features(name, prepared, masks)
    alone = np.concatenate([clip.view_features(name, prepared, masks[m : m + 1]) for m in range(6)])
    assert relative(together[:6], alone) < 1e-6
    assert clip.view_features(name, prepared, masks[:0]).shape == (0, 24)


def test_labels_name_what_is_not_the_default() -> None:
    settings = {
        "score_map": {"bias": ["clip", "none"], "pooling": "inside_minus_outside"},
        "grad_cam": {"sign": ["released", "usual"]},
    }
    found = labels_of(["score_map", "grad_cam", "local"], embed_masks.Params(settings=settings))
    assert {label: own for label, (view, own) in found.items() if view.name != "local"} == {
        "score_map.inside_minus_outside": {"bias": "clip", "pooling": "inside_minus_outside"},
        "score_map.inside_minus_outside.none": {"bias": "none", "pooling": "inside_minus_outside"},
        "grad_cam.released": {"sign": "released", "pooling": "inside"},
        "grad_cam": {"sign": "usual", "pooling": "inside"},
    }


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "score_map",
            {"bias": "release"},
            "score_map: bias: .*'clip' or 'none', got 'release'; it knows pooling, bias",
        ),
        ("score_map", {"sign": "usual"}, "score_map: there is no setting 'sign'.*; it knows pooling, bias"),
        ("region_token", {"reference": "perhaps"}, "region_token: reference: .*, got 'perhaps'; it knows reference"),
        ("global", {"masking": "patch"}, "global: masking: .*'token' or 'attention', got 'patch'; it knows masking"),
        (
            "grad_cam",
            {"poling": "inside"},
            "grad_cam: there is no setting 'poling'; did you mean 'pooling'.*; it knows pooling, sign",
        ),
    ],
)
def test_other_settings_are_refused(
    resnet: Any, vit: Any, image: Image.Image, masks: Array, name: str, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        clip_of(vit if name == "region_token" else resnet).view_features(name, image, masks, **arguments)
    with pytest.raises(ParameterError, match=message):
        labels_of([name], embed_masks.Params(settings={name: arguments}))


def test_settings_of_a_view_that_is_not_computed() -> None:
    with pytest.raises(
        ParameterError, match=r"embed_masks\.settings\.scoremap: 'scoremap' is not among embed_masks\.views"
    ):
        labels_of(["score_map"], embed_masks.Params(settings={"scoremap": {"bias": "none"}}))


@pytest.mark.parametrize(
    ("name", "kind", "other"),
    [("score_map", "resnet", "vit"), ("grad_cam", "resnet", "vit"), ("region_token", "vit", "resnet")],
)
def test_an_encoder_that_does_not_offer_a_view(
    request: pytest.FixtureRequest,
    image: Image.Image,
    masks: Array,
    tmp_path: Path,
    name: str,
    kind: str,
    other: str,
) -> None:
    """By name, and in the stage before anything is computed."""
    message = (
        rf"view {name}: expected an encoder of kind {kind}, got one of kind {other}; choose another encoder"
        r".*embed_masks\.views"
    )
    with pytest.raises(ParameterError, match=message):
        clip_of(request.getfixturevalue(other)).view_features(name, image, masks)
    (tmp_path / "weights").write_bytes(b"never loaded")
    files = {field: tmp_path / field for field in embed_masks.Paths.model_fields}
    models = {"vit": "ViT-B-32-quickgelu", "resnet": "RN50-quickgelu"}
    own = embed_masks.Params(model=models[kind], views=["local", name])
    assert list(embed_masks.open_parts(own, embed_masks.Paths(**files), tmp_path)) == ["local", name]
    wrong = embed_masks.Params(model=models[other], views=["local", name])
    with pytest.raises(ParameterError, match=message):
        embed_masks.open_parts(wrong, embed_masks.Paths(**files), tmp_path)
