"""Pooling weights against the plain way: a dense map upsampled by torch, and its mean over the mask's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from stages.visual.pooling import pooling_weights, upsampling


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


def test_upsampling_is_torchs() -> None:
    for grid, length in ((1, 5), (7, 383), (14, 511), (7, 3), (5, 5)):
        cells = torch.eye(grid, dtype=torch.float64)[None]
        expected = functional.interpolate(cells, length, mode="linear", align_corners=False)[0].T.numpy()
        np.testing.assert_allclose(upsampling(grid, length), expected, atol=1e-9)


def test_no_masks() -> None:
    weights, nothing = pooling_weights(np.zeros((0, 4, 6), bool), (2, 3))
    assert weights.shape == (0, 6)
    assert nothing.shape == (0,)
