"""CLIP features against what the released code computes on the same, rebuildable weights (tests/golden/README.md)."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.visual.encoder import MaskedClip
from stages.visual.masked_resnet import MaskedResNet
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, crop_windows

GOLDEN = Path(__file__).parents[1] / "golden"
VECTOR_TOLERANCE = 1e-5  # relative L2; the release differs from itself in float64 by 4e-6
PIXEL_TOLERANCE = 1e-5  # normalised pixels; their standard deviation is about 1
CROP_TOLERANCE = 1e-4  # two resizes after another, each rounds its coordinates in float32
CPU = torch.device("cpu")

Arrays = dict[str, NDArray[Any]]


def load(name: str) -> Arrays:
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


def unpacked(arrays: Arrays, name: str) -> NDArray[np.bool_]:
    shape = tuple(arrays[f"{name}_shape"])
    return np.unpackbits(arrays[name])[: np.prod(shape)].reshape(shape).astype(bool)


def sampled(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return values.ravel()[np.linspace(0, values.size - 1, count).astype(np.int64)]


def worst(got: NDArray[np.float32], expected: NDArray[Any]) -> float:
    """The largest relative L2 error of any row."""
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return float((np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@cache  # other tests use them too
def golden_clip(architecture: str, seed: str, checksum: str) -> MaskedClip:
    weights = golden_weights()
    model = open_clip.create_model(architecture)
    state = weights.fill_state_dict(model.state_dict(), weights.SEEDS[seed])
    assert weights.checksum(state) == checksum
    model.load_state_dict(state)
    return MaskedClip(model, open_clip.get_tokenizer(architecture))


def golden_weights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def vit() -> MaskedClip:
    return golden_clip("ViT-B-32-quickgelu", "clip_vit_b32", "c8e4603d")


@pytest.fixture(scope="session")
def rn50() -> MaskedClip:
    return golden_clip("RN50-quickgelu", "clip_rn50", "9ccf576b")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    with Image.open(GOLDEN / "images" / "astronaut.png") as opened:
        return opened.convert("RGB")


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return load("clip_vit_b32_astronaut.npz")


@pytest.fixture(scope="module")
def masks(arrays: Arrays) -> NDArray[np.bool_]:
    proposals = unpacked(load("freesolo_astronaut.npz"), "pred_masks")
    assert len(proposals) == arrays["n_freesolo"]
    return np.concatenate([proposals, unpacked(arrays, "hand_masks")])


@pytest.fixture(scope="module")
def reference() -> Preprocess:
    return Preprocess(IMAGENET_MEAN, IMAGENET_STD, antialias=False, short_side=800, fill="reference")


def test_pixels(image: Image.Image, arrays: Arrays, reference: Preprocess) -> None:
    prepared = reference.prepare(image, CPU)
    assert prepared.tensor.shape == (3, 1067, 800)
    for name, pixels in (
        ("resized", reference.global_view(prepared, (224, 224)).numpy()),
        ("original", reference.source_view(prepared).numpy()),
    ):
        np.testing.assert_allclose(sampled(pixels, 1024), arrays[f"{name}_img_sample"], atol=PIXEL_TOLERANCE)
        np.testing.assert_allclose([pixels.mean(), pixels.std()], arrays[f"{name}_img_stat"], atol=PIXEL_TOLERANCE)


def test_grid_masks(masks: NDArray[np.bool_], arrays: Arrays, reference: Preprocess) -> None:
    got = reference.grid_masks(masks, (7, 7), 10, CPU).numpy()
    np.testing.assert_allclose(got, arrays["masks7"], atol=1e-6)


def test_crops(image: Image.Image, masks: NDArray[np.bool_], arrays: Arrays, reference: Preprocess) -> None:
    windows = crop_windows(arrays["boxes"], image.height, image.width)
    np.testing.assert_array_equal(windows, arrays["boxes_int"])
    source = reference.source_view(reference.prepare(image, CPU))
    crops = reference.local_views(source, masks, windows, (224, 224)).numpy()
    got = np.stack([sampled(crop, 128) for crop in crops])
    np.testing.assert_allclose(got, arrays["crop_samples"], atol=CROP_TOLERANCE)
    np.testing.assert_allclose(crops.mean(axis=(1, 2, 3), dtype=np.float64), arrays["crop_means"], atol=CROP_TOLERANCE)
    np.testing.assert_allclose(crops.std(axis=(1, 2, 3), dtype=np.float64), arrays["crop_stds"], atol=CROP_TOLERANCE)


def test_vit_global(vit: MaskedClip, image: Image.Image, masks: NDArray[np.bool_], arrays: Arrays) -> None:
    features = vit.global_features_by_k(image, masks, [3, 6, 1])
    for k, name in ((3, "global_b9"), (6, "global_b6"), (1, "global_b11")):
        assert worst(features[k], arrays[name]) < VECTOR_TOLERANCE, name


def test_vit_full_mask_is_the_plain_encoder(vit: MaskedClip, image: Image.Image, arrays: Arrays) -> None:
    full = np.ones((1, image.height, image.width), dtype=bool)
    assert worst(vit.global_features(image, full), arrays["encode_image_cls"]) < VECTOR_TOLERANCE


def test_vit_local(vit: MaskedClip, image: Image.Image, masks: NDArray[np.bool_], arrays: Arrays) -> None:
    assert worst(vit.local_features(image, masks, arrays["boxes"]), arrays["crop"]) < VECTOR_TOLERANCE


def test_rn50(rn50: MaskedClip, image: Image.Image, masks: NDArray[np.bool_], arrays: Arrays) -> None:
    expected = load("clip_rn50_astronaut.npz")
    prepared = rn50.prepare(image)
    assert worst(rn50.global_features(prepared, masks), expected["global"]) < VECTOR_TOLERANCE
    assert worst(rn50.local_features(prepared, masks, arrays["boxes"]), expected["crop"]) < VECTOR_TOLERANCE


def test_rn50_feature_map(rn50: MaskedClip, image: Image.Image, reference: Preprocess) -> None:
    expected = load("clip_rn50_astronaut.npz")
    pixels = reference.global_view(reference.prepare(image, CPU), (224, 224))
    backbone = rn50.tower
    assert isinstance(backbone, MaskedResNet)
    with torch.inference_mode():
        features = backbone.feature_map(pixels).numpy()
        pooled = backbone.encode(pixels).numpy()
    got = features[:, ::8].reshape(1, -1)
    assert worst(got, expected["feature_map"].reshape(1, -1)) < VECTOR_TOLERANCE
    np.testing.assert_allclose([features.mean(), features.std()], expected["feature_map_stat"], rtol=1e-5)
    assert worst(pooled, expected["global_image"]) < VECTOR_TOLERANCE


@pytest.mark.parametrize("name", ["vit", "rn50"])
def test_texts(name: str, request: pytest.FixtureRequest) -> None:
    clip: MaskedClip = request.getfixturevalue(name)
    expected = load("text.npz")
    rows = json.loads((GOLDEN / "text.json").read_text(encoding="utf-8"))["expressions"]
    for kind, key in (("sentence", "sentence_for_spacy"), ("noun", "noun_phrase")):
        vectors = expected[f"{name}_{kind}"]
        kept = np.flatnonzero(~np.isnan(vectors).any(axis=1))
        got = clip.text_features([rows[row][key] for row in kept])
        got = unit(got) if name == "rn50" else got
        assert worst(got, vectors[kept]) < VECTOR_TOLERANCE, kind
