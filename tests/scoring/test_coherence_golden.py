"""HybridGL's coherence from two means of GEM's map, against what its release computed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages.scoring.geometry import PRIORS, geometry_of
from stages.scoring.rules.coherence import of_means
from stages.visual.pooling import pooling_weights
from store.segmentation import encode
from tests.visual.test_views_dense import golden_patches, unit, vit_b16
from tests.visual.test_visual_golden import GOLDEN, load

OWN = json.loads((GOLDEN / "relations.json").read_text("utf-8"))["golden_no_full"]["astronaut"]


def golden_masks() -> np.ndarray:
    freesolo, clip = load("freesolo_astronaut.npz"), load("clip_vit_b32_astronaut.npz")
    masks = []
    for packed, shape in (
        (freesolo["pred_masks"], freesolo["pred_masks_shape"]),
        (clip["hand_masks"], clip["hand_masks_shape"]),
    ):
        masks.append(np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape).astype(bool))
    return np.concatenate([masks[0][:12], masks[1]])[OWN["mask_rows"]]


@pytest.mark.parametrize("row", OWN["rows"], ids=lambda row: row["text"])
def test_coherence_against_the_release(row: dict) -> None:  # type: ignore[type-arg]
    masks = golden_masks()
    height, width = masks.shape[1:]
    text = unit(vit_b16().text_features([f"a photo of a {row['noun_phrase']}."])[0])
    heat = unit(golden_patches("gem", 448)) @ text
    inside = (pooling_weights(masks, (28, 28))[0] @ heat).astype(np.float64)
    outside = inside - pooling_weights(masks, (28, 28), "inside_minus_outside")[0] @ heat
    small = torch.from_numpy(heat.astype(np.float64)).reshape(1, 1, 28, 28)
    upsampled = functional.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    b = np.full(len(masks), {"big": 1.95, "small": 1.5}.get(row["relation"], 1.8))
    share = masks.mean((1, 2))
    prior = None
    if row["position"] in ("left", "right", "middle"):
        prior = geometry_of(encode(masks), height, width)[1][:, PRIORS.index(row["position"])].astype(np.float64)
    if prior is None:  # the release upsamples in two stages
        exact = of_means(inside, outside, share, b, float(upsampled.min()), None, 1.0)
        np.testing.assert_allclose(exact, row["C"], atol=1e-2)
    low = float(min(inside.min(), outside.min()))
    ours = of_means(inside, outside, share, b, low, prior, 1.0 if prior is None else 0.5)
    assert np.corrcoef(ours, row["C"])[0, 1] > (0.999 if prior is None else 0.85)
    final = 0.4 * np.array(row["R"]) + 0.6 * ours[row["top"]]
    assert row["top"][int(final.argmax())] == row["choice"]
