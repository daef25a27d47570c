"""Overlays: what is drawn where, at which size, and odd input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.page.overlay import CHOICE, RIVAL, TRUTH, _scaled, drawable, overlay
from store.errors import DataError

HEIGHT, WIDTH = 60, 80


def image() -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), (90, 110, 130))


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.int64)


def near(picture: Image.Image, colour: tuple[int, int, int], tolerance: int = 40) -> np.ndarray:
    """Where a picture has about this colour, bool (h, w)."""
    return np.abs(pixels(picture) - colour).max(-1) <= tolerance


def test_nothing_to_draw_leaves_the_image_as_it_is() -> None:
    for masks in (
        {},
        {"truth": box(0, 0, 0, 0)},
        {"choice": box(0, 0, 0, 0)},
        {"proposals": np.zeros((0, HEIGHT, WIDTH), np.bool_)},
    ):
        assert np.array_equal(pixels(overlay(image(), legend=False, **masks)), pixels(image()))


@pytest.mark.parametrize(("name", "colour"), [("choice", CHOICE), ("truth", TRUTH), ("rival", RIVAL)])
def test_an_outline_follows_the_border_of_its_mask(name: str, colour: tuple[int, int, int]) -> None:
    mask = box(15, 45, 20, 60)
    drawn = near(overlay(image(), legend=False, **{name: mask}), colour)
    rows, columns = np.nonzero(drawn)
    assert len(rows) > 20
    edge = np.minimum.reduce(
        [np.abs(rows + 0.5 - 15), np.abs(rows + 0.5 - 45), np.abs(columns + 0.5 - 20), np.abs(columns + 0.5 - 60)]
    )
    assert edge.max() <= 3
    for side in (drawn[13:17, 25:55], drawn[43:47, 25:55], drawn[20:40, 18:22], drawn[20:40, 58:62]):
        assert side.any()


def test_the_truth_is_dashed_and_the_choice_is_not() -> None:
    mask = box(15, 45, 20, 60)
    solid = near(overlay(image(), choice=mask, legend=False), CHOICE)[13:17, 26:54].any(0)
    dashed = near(overlay(image(), truth=mask, legend=False), TRUTH)[13:17, 26:54].any(0)
    assert solid.all()
    assert 0.2 < dashed.mean() < 0.8


def test_where_both_coincide_both_are_seen() -> None:
    mask = box(15, 45, 20, 60)
    picture = overlay(image(), choice=mask, truth=mask, legend=False)
    assert near(picture, CHOICE).sum() > 20
    assert near(picture, TRUTH).sum() > 20


def test_the_choice_stands_out_and_keeps_its_colour() -> None:
    picture = pixels(overlay(image(), choice=box(15, 45, 20, 60), legend=False))
    inside, outside = picture[30, 40], picture[5, 5]
    assert inside.sum() > pixels(image())[30, 40].sum() > outside.sum()
    assert np.abs(inside - pixels(image())[30, 40]).max() < 30


@pytest.mark.parametrize("name", ["choice", "truth", "rival", "proposals"])
@pytest.mark.parametrize(
    "mask", [box(30, 31, 10, 70), box(30, 31, 40, 41), box(0, HEIGHT, 0, WIDTH), box(0, 10, 70, WIDTH)]
)
def test_slivers_and_masks_at_the_edge_leave_a_mark_near_them_only(name: str, mask: np.ndarray) -> None:
    given = mask[None] if name == "proposals" else mask
    base = image()
    plain = pixels(base) if name != "choice" else pixels(overlay(base, choice=box(0, 1, 0, 1), legend=False))[59, 0]
    changed = np.abs(pixels(overlay(base, legend=False, **{name: given})) - plain).max(-1) > 60
    assert changed.any()
    rows, columns = np.nonzero(mask)
    there = np.argwhere(changed)
    assert there[:, 0].min() >= rows.min() - 5
    assert there[:, 0].max() <= rows.max() + 5
    assert there[:, 1].min() >= columns.min() - 5
    assert there[:, 1].max() <= columns.max() + 5


def test_tags_are_drawn_on_the_first_proposals_only() -> None:
    masks = np.stack([box(10, 30, 10, 30), box(30, 50, 50, 70)])
    plain, tagged = (pixels(overlay(image(), proposals=masks, tags=tags, legend=False)) for tags in ((), ("1",)))
    changed = np.argwhere((plain != tagged).any(-1))
    assert len(changed)
    assert changed.max(0)[0] < 30
    assert changed.max(0)[1] < 30


def test_width_scales_the_picture_and_the_strip_comes_below() -> None:
    mask = box(15, 45, 20, 60)
    assert overlay(image(), choice=mask, legend=False, width=320).size == (320, 240)
    short, long = (overlay(image(), choice=mask, caption=[text], width=320) for text in ("red", "red ring " * 30))
    assert short.width == long.width == 320
    assert 240 < short.height < long.height
    only_picture = overlay(image(), choice=mask, legend=False, width=320)
    assert np.array_equal(pixels(long)[:240], pixels(only_picture))


def test_text_stays_inside_the_strip() -> None:
    strip = pixels(overlay(image(), caption=["W" * 200, "a " * 200], legend=False, width=200))[150:]
    assert (strip[:, :4] == strip[0, 0]).all()
    assert (strip[:, -4:] == strip[0, 0]).all()
    assert (strip != strip[0, 0]).any()


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("plain, text!", "plain, text!"),
        ("café", "cafe"),
        ("a – b", "a - b"),
        ("中文", "??"),
        (" two\n lines\t", "two lines"),
        ("", ""),
    ],
)
def test_characters_without_a_glyph_are_replaced(text: str, drawn: str) -> None:
    assert drawable(text) == drawn


def test_equal_input_gives_equal_pictures() -> None:
    mask = box(15, 45, 20, 60)
    first, second = (overlay(image(), choice=mask, truth=mask, caption=["x"], width=200).tobytes() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ["choice", "truth", "rival"])
def test_a_mask_of_another_size_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=rf"expected {name} bool \(H, W\) = \(60, 80\).*got \(80, 60\)"):
        overlay(image(), **{name: np.ones((WIDTH, HEIGHT), np.bool_)})
    with pytest.raises(DataError, match="expected proposals"):
        overlay(image(), proposals=np.ones((1, WIDTH, HEIGHT), np.bool_))


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_a_mask_scaled_where_it_is_equals_the_whole_scaled(
    shape: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    """Smaller, larger, distorted; masks of a pixel, of a stretch, of everything, of nothing."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.bool_)
    (top, bottom), (left, right) = (sorted(rng.integers(0, length + 1, 2)) for length in shape)
    mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < rng.choice([0.1, 0.9, 1.0])
    whole = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    found = Image.new("L", size)
    found.paste(*_scaled(mask, size))
    assert np.abs(pixels(found) - pixels(whole)).max() <= 1
