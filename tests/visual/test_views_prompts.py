"""Views blur and red_circle: the pictures written plainly, encoded by open_clip's own encoder, on tiny random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.embed_masks import Params
from stages.views.known import VIEWS
from stages.views.registry import labels_of
from stages.visual.prompts import shrunk, with_ellipse
from store.errors import ParameterError
from tests.helpers.visual_oracles import (
    RESNET,
    SIDE,
    VIT,
    Array,
    H,
    W,
    bilinear,
    clip_of,
    random_model,
    relative,
    resized,
    some_boxes,
    some_masks,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
masks = pytest.fixture(scope="module")(some_masks)
boxes = pytest.fixture(scope="module")(some_boxes)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Not noise alone, so that blurring leaves something to compare."""
    rows, columns = np.mgrid[:H, :W]
    waves = np.stack([np.sin(rows / 5), np.cos(columns / 4), np.sin((rows + columns) / 7)], 2) * 70 + 128
    return Image.fromarray((waves + np.random.default_rng(3).normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def vit() -> Any:
    return random_model(VIT, quick_gelu=True)


def encoded(model: Any, picture: Array, side: int = SIDE, normalize: bool = False) -> Array:
    """The vector of a picture (h, w, 3) in 0..255: CLIP's mean and std, squashed without antialias, open_clip's encoder."""
    normal = (picture / 255 - np.array(MEAN)) / np.array(STD)
    squashed = resized(torch.from_numpy(normal.transpose(2, 0, 1)), (side, side)).astype(np.float32)
    with torch.inference_mode():
        found: Array = model.encode_image(torch.from_numpy(squashed)[None], normalize=normalize)[0].numpy()
    return found


def gaussian(picture: Array, std: float) -> Array:
    """A blur by the Gaussian itself, the border repeated."""
    reach = int(5 * std)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    for axis in (0, 1):
        padded = np.pad(picture, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        picture = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), mode="valid")
    return picture


def test_the_picture_keeps_its_aspect_ratio() -> None:
    for size, side, expected in (((50, 40), 32, (40, 32)), ((383, 511), 224, (224, 299)), ((9, 3), 224, (672, 224))):
        assert shrunk(Image.new("RGB", size), side).size == expected


@pytest.mark.parametrize("given", [{"std": 1.0}, {"std": 2.5}, {"std": 6.0}, {}])
def test_blur_is_a_gaussian_around_the_sharp_mask(
    vit: Any, image: Image.Image, masks: Array, given: dict[str, float]
) -> None:
    picture = np.array(shrunk(image, SIDE)).astype(float)
    smooth, expected = gaussian(picture, given.get("std", 100)), []
    for mask in masks:
        kept = bilinear(mask * 1.0, picture.shape[:2]) > 0
        expected.append(encoded(vit, np.where(kept[..., None], picture, smooth)))
    got = clip_of(vit).view_features("blur", image, masks, **given)
    assert got.dtype == np.float32
    error = relative(got, np.array(expected))
    assert error < 0.06  # Pillow's Gaussian is three box filters, each rounded to bytes
    assert relative(got[6:], encoded(vit, picture)[None]) > 4 * error, "an empty mask leaves everything blurred"


def test_blur_of_a_full_mask_or_by_nothing_is_the_plain_picture(vit: Any, image: Image.Image, masks: Array) -> None:
    plain = encoded(vit, np.array(shrunk(image, SIDE)))
    assert relative(clip_of(vit).view_features("blur", image, masks[2:3]), plain[None]) < 1e-5
    assert relative(clip_of(vit).view_features("blur", image, masks, std=0), np.tile(plain, (7, 1))) < 1e-5


@pytest.mark.parametrize("thickness", [1, 2, 3, 6])
@pytest.mark.parametrize("box", [(10, 20, 90, 60), (0, 0, 119, 79), (30.6, 10.2, 51.9, 77.7)])
def test_the_ellipse_is_inscribed_in_the_box(box: tuple[float, ...], thickness: int) -> None:
    drawn = np.array(with_ellipse(Image.new("RGB", (120, 80)), np.array(box), thickness))
    y, x = np.nonzero(drawn.any(axis=2))
    assert (drawn[y, x] == (255, 0, 0)).all()
    angle = np.linspace(0, 2 * np.pi, 4000)
    left, top, right, bottom = box
    centre, half = ((left + right) // 2, (top + bottom) // 2), ((right - left) // 2, (bottom - top) // 2)
    line = np.stack([centre[0] + half[0] * np.cos(angle), centre[1] + half[1] * np.sin(angle)], 1)
    away = np.linalg.norm(np.stack([x, y], 1)[:, None] - line[None], axis=2)
    assert away.min(1).max() <= thickness / 2 + 0.75, "red only near the ellipse"
    inside = ((line > -0.5) & (line < (119.5, 79.5))).all(1)
    assert away[:, inside].min(0).max() <= 1, "red all along the ellipse"
    assert len(x) == pytest.approx(thickness * np.linalg.norm(np.diff(line, axis=0), axis=1).sum(), rel=0.4)


def test_red_circle_is_the_whole_picture_with_an_ellipse(
    vit: Any, image: Image.Image, masks: Array, boxes: Array
) -> None:
    picture = shrunk(image, SIDE)
    scale = np.array([picture.width / W, picture.height / H] * 2)
    for thickness in (1, 2, 4):
        expected = []
        for box in boxes:
            x1, y1, x2, y2 = np.minimum(np.maximum(box * scale, 0), [picture.width - 1, picture.height - 1] * 2)
            expected.append(encoded(vit, np.array(with_ellipse(picture, np.array([x1, y1, x2, y2]), thickness))))
        got = clip_of(vit).view_features("red_circle", image, masks, boxes, thickness=thickness)
        assert relative(got, np.array(expected)) < 1e-5
        if thickness == 2:
            np.testing.assert_array_equal(clip_of(vit).view_features("red_circle", image, masks, boxes), got)


def test_red_circle_sees_the_box_and_not_the_mask(vit: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    encoder = clip_of(vit)
    assert VIEWS["red_circle"].reads_boxes
    assert not VIEWS["blur"].reads_boxes
    first = encoder.view_features("red_circle", image, masks, boxes)
    np.testing.assert_array_equal(encoder.view_features("red_circle", image, masks[::-1], boxes), first)
    assert relative(encoder.view_features("red_circle", image, masks, boxes[::-1])[:1], first[:1]) > 0.01
    tight = encoder.view_features("red_circle", image, masks[:1])  # by default the tight box of the mask
    given = encoder.view_features("red_circle", image, masks[:1], np.array([[10.0, 5.0, 45.0, 30.0]]))
    np.testing.assert_array_equal(tight, given)


@pytest.mark.parametrize("name", ["blur", "red_circle"])
def test_batches_and_order_change_nothing(vit: Any, image: Image.Image, masks: Array, boxes: Array, name: str) -> None:
    encoder = clip_of(vit)
    whole = encoder.view_features(name, image, masks, boxes)
    assert relative(clip_of(vit, batch=2).view_features(name, encoder_image(vit, image), masks, boxes), whole) < 1e-5
    assert relative(encoder.view_features(name, image, masks[::-1], boxes[::-1])[::-1], whole) < 1e-5
    assert encoder.view_features(name, image, masks[:0], boxes[:0]).shape == (0, 24)


def encoder_image(model: Any, image: Image.Image) -> Any:
    """What `prepare` makes: the original is kept in it."""
    return clip_of(model).prepare(clip_of(model).shrink(image))


@pytest.mark.parametrize("name", ["blur", "red_circle"])
def test_a_resnet_offers_them(image: Image.Image, masks: Array, boxes: Array, name: str) -> None:
    model = random_model(RESNET)
    got = clip_of(model).view_features(name, image, masks, boxes)
    if name == "blur":
        assert relative(got[2:3], encoded(model, np.array(shrunk(image, 96)), 96, normalize=True)[None]) < 1e-5
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["blur", "red_circle"])
def test_release_s_preprocessing_does_not_follow_the_encoder_s(
    vit: Any, image: Image.Image, masks: Array, boxes: Array, name: str
) -> None:
    reference, as_trained = clip_of(vit), clip_of(vit, preprocess="clip", antialias=False)
    released = reference.view_features(name, image, masks, boxes)
    assert relative(as_trained.view_features(name, image, masks, boxes), released) < 1e-6
    assert relative(as_trained.view_features(name, image, masks, boxes, preprocess="encoder"), released) < 1e-6
    assert relative(reference.view_features(name, image, masks, boxes, preprocess="encoder"), released) > 1e-2


def test_what_means_little_is_degenerate(vit: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    encoder = clip_of(vit)
    expected = {"blur": [False] * 6 + [True], "red_circle": [False] * 6 + [True]}
    for name, rows in expected.items():
        running = VIEWS[name].open(encoder, {name: {}})
        running.add(encoder.prepare(image), masks, boxes)
        found = running.finish()[name][0]
        np.testing.assert_array_equal(found.degenerate, rows)
        assert found.reason


def test_faulty_parameters_are_told(vit: Any, image: Image.Image, masks: Array, boxes: Array) -> None:
    encoder = clip_of(vit)
    for std in (-1, float("nan"), float("inf")):
        with pytest.raises(
            ParameterError, match=r"view blur: std: expected (greater than or equal to 0|a finite number), got"
        ):
            encoder.view_features("blur", image, masks, std=std)
    for thickness in (0, 1.5):
        with pytest.raises(
            ParameterError,
            match=r"view red_circle: thickness: expected (greater than or equal to 1|a valid integer.*), got",
        ):
            encoder.view_features("red_circle", image, masks, boxes, thickness=thickness)
    with pytest.raises(ParameterError, match=r"boxes: expected one for each of the 7 masks, got 2"):
        encoder.view_features("red_circle", image, masks, boxes[:2])
    for name in ("blur", "red_circle"):
        with pytest.raises(ParameterError, match=r"preprocess: expected 'release' or 'encoder', got 'reference'"):
            encoder.view_features(name, image, masks, boxes, preprocess="reference")
    with pytest.raises(ParameterError, match=r"view blur: .*'sigma'.*std"):
        encoder.view_features("blur", image, masks, sigma=3)


def test_settings_of_the_params_file_are_the_arguments() -> None:
    """One label for each value of a list, as of every view; a value that no picture can have is told before any work."""
    params = Params(views=["blur", "red_circle", "hybrid"], settings={"blur": {"std": [100, 7.5]}})
    labels = {label: (view.name, given) for label, (view, given) in labels_of(params.views, params).items()}
    assert labels == {
        "blur": ("blur", {"preprocess": "release", "std": 100}),
        "blur.std7.5": ("blur", {"preprocess": "release", "std": 7.5}),
        "red_circle": ("red_circle", {"preprocess": "release", "thickness": 2}),
        "hybrid": ("hybrid", {"preprocess": "release", "masked_blocks": 3}),
    }
    wrong = Params(views=["blur"], settings={"blur": {"std": -1}})
    with pytest.raises(
        ParameterError, match=r"embed_masks\.settings\.blur: std: expected greater than or equal to 0, got -1"
    ):
        labels_of(wrong.views, wrong)
