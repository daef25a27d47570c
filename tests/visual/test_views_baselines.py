"""The paper's baselines as views: against the releases' values, and against dense maps, autograd and loops over masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from stages import embed_masks
from stages.views.registry import labels_of
from stages.visual.encoder import MaskedClip
from store.errors import ParameterError
from tests.helpers.visual_oracles import (
    RESNET,
    VIT,
    Array,
    H,
    W,
    clip_of,
    imagenet,
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


# Plain implementations on a small random encoder.


def raw_map(model: Any, picture: Image.Image) -> torch.Tensor:
    """The ResNet's last map, float32 (1, C, 3, 3), by its own stages."""
    features = torch.from_numpy(resized(imagenet(picture), (96, 96)).astype(np.float32))[None]
    visual = model.visual
    for stage in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        features = stage(features)
    return features


def means(heat: torch.Tensor, masks: Array, outside: bool) -> Array:
    """Means of a map (T, h, w), upsampled to the image, inside each mask; less those outside. (N, T)"""
    up = functional.interpolate(heat.double()[None], (H, W), mode="bilinear", align_corners=False)[0].detach().numpy()
    return np.array([up[:, m].mean(1) - (up[:, ~m].mean(1) if outside else 0) for m in masks])


def plain_score_map(model: Any, picture: Image.Image, texts: torch.Tensor, variant: str) -> torch.Tensor:
    """DenseCLIP's: the value and output projections as 1 x 1 convolutions."""
    pool, features = model.visual.attnpool, raw_map(model, picture)
    for layer in (pool.v_proj, pool.c_proj):
        bias = layer.bias if variant == "clip" else None
        features = functional.conv2d(features, layer.weight[:, :, None, None], bias)
    return torch.einsum("dyx,td->tyx", functional.normalize(features, dim=1)[0], texts)


def plain_grad_cam(model: Any, picture: Image.Image, texts: torch.Tensor, variant: str) -> torch.Tensor:
    """A backward pass for every text."""
    features = raw_map(model, picture).detach().requires_grad_()
    pooled = model.visual.attnpool(features)[0]
    maps = []
    for text in texts:
        logit = 100 * functional.cosine_similarity(pooled, text, dim=0)
        (gradient,) = torch.autograd.grad(-logit if variant == "released" else logit, features, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * functional.normalize(features, dim=1)).sum(1)[0])
    return torch.stack(maps)


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
    labels = {label: given for label, (_, given) in labels_of([name], settings).items()}
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
    assert {label: given for label, (view, given) in found.items() if view.name != "local"} == {
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
        ("score_map", {"sign": "usual"}, "score_map: sign: .*; it knows pooling, bias"),
        ("grad_cam", {"poling": "inside"}, "grad_cam: poling: .*; it knows pooling, sign"),
    ],
)
def test_other_settings_are_refused(
    resnet: Any, image: Image.Image, masks: Array, name: str, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        clip_of(resnet).view_features(name, image, masks, **arguments)
    with pytest.raises(ParameterError, match=message):
        labels_of([name], embed_masks.Params(settings={name: arguments}))


@pytest.mark.parametrize("name", HEAT_MAPS)
def test_a_transformer_has_no_attention_pool(vit: Any, image: Image.Image, masks: Array, name: str) -> None:
    with pytest.raises(ParameterError, match=rf"view {name}: expected an encoder of kind resnet, got one of kind vit"):
        clip_of(vit).view_features(name, image, masks)
