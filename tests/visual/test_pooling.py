"""Pooling weights against the plain way: a dense map upsampled by torch, and its mean over the mask's pixels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from stages.visual.pooling import pooling_weights


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 2**32 - 1),
)
def test_weights_are_the_mean_of_the_upsampled_map(grid: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.normal(size=(3, *grid))
    masks = rng.random((5, *size)) < rng.random((5, 1, 1))
    masks[0], masks[1] = True, False
    up = functional.interpolate(torch.from_numpy(heat)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    inside, nothing = pooling_weights(masks, grid)
    difference, undefined = pooling_weights(masks, grid, "inside_minus_outside")
    for row, mask in enumerate(masks):
        assert nothing[row] == (not mask.any())
        assert undefined[row] == (not mask.any() or mask.all())
        if mask.any():
            expected = up[:, mask].mean(1)
            np.testing.assert_allclose(heat.reshape(3, -1) @ inside[row], expected, rtol=1e-5, atol=1e-5)
            assert inside[row].sum() == pytest.approx(1, abs=1e-5)
        if mask.any() and not mask.all():
            expected = up[:, mask].mean(1) - up[:, ~mask].mean(1)
            np.testing.assert_allclose(heat.reshape(3, -1) @ difference[row], expected, rtol=1e-5, atol=2e-5)
    assert not inside[1].any()
    assert not difference[:2].any()


def test_weights_are_exact_and_of_any_layout() -> None:
    """Against rational numbers; the masks may be views of a larger array, or columns first."""
    rng = np.random.default_rng(0)
    grid, height, width = (3, 5), 7, 11
    masks = rng.random((4, height, width)) < 0.5
    weights, _ = pooling_weights(masks, grid)
    for layout in (np.asfortranarray(masks), np.repeat(masks, 2, 2)[:, :, ::2]):
        np.testing.assert_array_equal(pooling_weights(layout, grid)[0], weights)
    rows, columns = shares(grid[0], height), shares(grid[1], width)
    for row, mask in enumerate(masks):
        places = [(int(y), int(x)) for y, x in np.argwhere(mask)]
        expected = [
            float(sum(rows[y][r] * columns[x][c] for y, x in places) / len(places))
            for r in range(grid[0])
            for c in range(grid[1])
        ]
        np.testing.assert_array_equal(weights[row], np.array(expected, np.float32))


def shares(cells: int, length: int) -> list[list[Fraction]]:
    """Pixel -> what it takes of each cell, by the definition of bilinear upsampling."""
    found = []
    for pixel in range(length):
        place = min(max(Fraction(2 * pixel + 1, 2 * length) * cells - Fraction(1, 2), Fraction(0)), Fraction(cells - 1))
        found.append([max(Fraction(0), 1 - abs(place - cell)) for cell in range(cells)])
    return found


def test_a_large_image_does_not_overflow() -> None:
    """A mask of all of it, 120 million pixels: twice what Pillow takes for a bomb."""
    mask = np.ones((1, 12_000, 10_000), np.bool_)
    weights, nothing = pooling_weights(mask, (2, 2))
    np.testing.assert_allclose(weights, [[0.25] * 4], rtol=1e-6)
    assert not nothing.any()


def test_no_masks() -> None:
    weights, nothing = pooling_weights(np.zeros((0, 4, 6), bool), (2, 3))
    assert weights.shape == (0, 6)
    assert nothing.shape == (0,)
