"""Counts of pixels from runs, centroids and position priors, against dense masks and the release's own priors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.scoring.geometry import PRIORS, geometry_of, ramp, triangle
from store.segmentation import column_counts, encode, row_counts

GOLDEN = Path(__file__).parents[1] / "golden" / "relations.json"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_counts_of_runs_are_those_of_masks(height: int, width: int, masks: int, share: float, seed: int) -> None:
    dense = np.random.default_rng(seed).random((masks, height, width)) < share
    counts = encode(dense)
    np.testing.assert_array_equal(column_counts(counts, height, width), dense.sum(1))
    np.testing.assert_array_equal(row_counts(counts, height, width), dense.sum(2))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_geometry_against_loops(height: int, width: int, masks: int, seed: int) -> None:
    dense = np.random.default_rng(seed).random((masks, height, width)) < 0.4
    centroid, prior = geometry_of(encode(dense), height, width)
    assert centroid.shape == (masks, 2)
    assert prior.shape == (masks, len(PRIORS))
    for mask, centre, means in zip(dense, centroid, prior, strict=True):
        inside = [(x, y) for y in range(height) for x in range(width) if mask[y, x]]
        if not inside:
            assert (centre == 0.5).all()
            assert (means == 0.5).all()
            continue
        share = {
            "left": lambda x, y: 1 - x / max(width - 1, 1),
            "right": lambda x, y: x / max(width - 1, 1),
            "middle": lambda x, y: _plain_triangle(width)[x],
            "top": lambda x, y: 1 - y / max(height - 1, 1),
            "bottom": lambda x, y: y / max(height - 1, 1),
        }
        for name, mean in zip(PRIORS, means, strict=True):
            assert mean == pytest.approx(sum(share[name](x, y) for x, y in inside) / len(inside), abs=1e-6), name
        x, y = (sum(part) / len(inside) for part in zip(*inside, strict=True))
        np.testing.assert_allclose(centre, [(x + 0.5) / width, (y + 0.5) / height], rtol=1e-6)


def _plain_triangle(width: int) -> list[float]:
    up, down = width // 2, width - width // 2
    return [i / max(up - 1, 1) for i in range(up)] + [1 - i / max(down - 1, 1) for i in range(down)]


def test_priors_are_the_releases() -> None:
    rows = json.loads(GOLDEN.read_text("utf-8"))["position_rows"]
    for width in (7, 8):
        np.testing.assert_allclose(1 - ramp(width), rows[f"left_{width}"], atol=1e-7)
        np.testing.assert_allclose(ramp(width), rows[f"right_{width}"], atol=1e-7)
        np.testing.assert_allclose(triangle(width), rows[f"middle_{width}"], atol=1e-7)
