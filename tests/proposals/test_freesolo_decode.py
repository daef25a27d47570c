"""Decoding of FreeSOLO: against plain loops in Python numbers, at exact thresholds and at ties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.proposals import decode as decoding
from stages.proposals.decode import Sizes, decode, mask_boxes, matrix_nms, point_nms
from stages.proposals.settings import DecodeSettings
from store.errors import ParameterError

# ---- the oracle


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def bilinear(picture, height, width):
    """Pixel-centre bilinear resize of a list of rows, no antialias."""
    rows, columns = len(picture), len(picture[0])

    def taps(i, new, old):
        x = max((i + 0.5) * old / new - 0.5, 0.0)
        low = min(int(x), old - 1)
        return low, min(low + 1, old - 1), x - low

    out = []
    for i in range(height):
        y0, y1, v = taps(i, height, rows)
        row = []
        for j in range(width):
            x0, x1, u = taps(j, width, columns)
            top = picture[y0][x0] * (1 - u) + picture[y0][x1] * u
            bottom = picture[y1][x0] * (1 - u) + picture[y1][x1] * u
            row.append(top * (1 - v) + bottom * v)
        out.append(row)
    return out


def oracle_point_nms(p):
    size = len(p)
    out = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(size):
            window = [p[a][b] for a in (i - 1, i) for b in (j - 1, j) if a >= 0 and b >= 0]
            out[i][j] = p[i][j] if p[i][j] == max(window) else 0.0
    return out


def oracle_nms(masks, classes, scores):
    """SOLOv2's formula word for word; masks are sets of pixels, best first."""

    def iou(i, j):
        return len(masks[i] & masks[j]) / len(masks[i] | masks[j])

    def better(j):
        return [i for i in range(j) if classes[i] == classes[j]]

    out = []
    for j in range(len(masks)):
        decay = 1.0
        for i in better(j):
            most = max((iou(k, i) for k in better(i)), default=0.0)
            decay = min(decay, math.exp(-2 * iou(i, j) ** 2) / math.exp(-2 * most**2))
        out.append(scores[j] * decay)
    return out


def oracle_decode(logits, kernels, features, sizes, config):
    height, width = len(features[0]), len(features[0][0])
    found = []
    for level, (level_logits, level_kernels) in enumerate(zip(logits, kernels, strict=True)):
        kept = [oracle_point_nms([[sigmoid(v) for v in row] for row in plane]) for plane in level_logits]
        grid = len(kept[0])
        for i, j, c in ((i, j, c) for i in range(grid) for j in range(grid) for c in range(len(kept))):
            if not kept[c][i][j] > config.score_threshold:
                continue
            kernel = [channel[i][j] for channel in level_kernels]
            soft = [
                [sigmoid(sum(k * f[y][x] for k, f in zip(kernel, features, strict=True))) for x in range(width)]
                for y in range(height)
            ]
            inside = {(y, x) for y in range(height) for x in range(width) if soft[y][x] > 0.5}
            if len(inside) > config.strides[level]:
                maskness = sum(soft[y][x] for y, x in inside) / len(inside)
                found.append((kept[c][i][j] * maskness, c, inside, soft))
    found = sorted(found, key=lambda item: -item[0])[: config.max_candidates]
    scores = oracle_nms([f[2] for f in found], [f[1] for f in found], [f[0] for f in found])
    ranked = [(s, f[3]) for s, f in zip(scores, found, strict=True) if s >= config.update_threshold]
    ranked = sorted(ranked, key=lambda item: -item[0])[: config.max_proposals]
    masks, final = [], []
    for score, soft in ranked:
        big = [row[: sizes.resized[1]] for row in bilinear(soft, *sizes.padded)[: sizes.resized[0]]]
        mask = [[v > 0.5 for v in row] for row in bilinear(big, *sizes.original)]
        if any(map(any, mask)):
            masks.append(mask)
            final.append(score)
    return masks, final


# ---- decoding against the oracle

SIZES = Sizes(padded=(16, 24), resized=(14, 21), original=(11, 17))


def random_outputs(seed, grids=(4, 3), classes=2, channels=3, size=(4, 6)):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    logits = [draw(classes, g, g) for g in grids]
    kernels = [draw(channels, g, g) for g in grids]
    return logits, kernels, draw(channels, *size)


def as_lists(outputs):
    logits, kernels, features = outputs
    return [x.tolist() for x in logits], [x.tolist() for x in kernels], features.tolist()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    score_threshold=st.sampled_from([0.1, 0.5, 0.8]),
    update_threshold=st.sampled_from([0.0, 0.05, 0.2]),
    limits=st.sampled_from([(500, 100), (9, 100), (500, 3), (5, 2)]),
)
def test_decoding_equals_plain_loops(seed, score_threshold, update_threshold, limits):
    config = DecodeSettings(score_threshold, update_threshold, *limits, strides=(3, 6))
    outputs = random_outputs(seed)
    masks, scores = decode(*outputs, SIZES, config)
    expected_masks, expected_scores = oracle_decode(*as_lists(outputs), SIZES, config)
    assert scores.tolist() == pytest.approx(expected_scores, abs=1e-12)
    assert masks.tolist() == expected_masks


def test_the_random_cases_are_not_hollow():
    counts = [len(decode(*random_outputs(seed), SIZES, DecodeSettings(strides=(3, 6)))[1]) for seed in range(20)]
    assert min(counts) >= 1
    assert max(counts) >= 15


def test_chunks_do_not_show(monkeypatch):
    outputs, config = random_outputs(5), DecodeSettings(strides=(3, 6))
    masks, scores = decode(*outputs, SIZES, config)
    monkeypatch.setattr(decoding, "CHUNK", 3)
    monkeypatch.setattr(decoding, "UPSAMPLE_CHUNK", 2)
    chunked_masks, chunked_scores = decode(*outputs, SIZES, config)
    assert len(scores) > 4
    torch.testing.assert_close(chunked_scores, scores, rtol=1e-12, atol=0)
    assert torch.equal(chunked_masks, masks)


def test_nothing_fires():
    logits, kernels, features = random_outputs(0)
    masks, scores = decode([x - 100 for x in logits], kernels, features, SIZES, DecodeSettings(strides=(3, 6)))
    assert masks.shape == (0, 11, 17)
    assert masks.dtype == torch.bool
    assert scores.shape == (0,)
    assert mask_boxes(masks, "reference").shape == mask_boxes(masks, "tight").shape == (0, 4)


def one_cell(logit=4.0, kernel=1.0, features=None):
    """One level of one cell and one class; by default all 24 pixels are inside."""
    features = torch.ones(1, 4, 6, dtype=torch.float64) if features is None else features
    return [torch.full((1, 1, 1), logit).double()], [torch.full((1, 1, 1), kernel).double()], features


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, 0), (0.4999, 1)])
def test_a_score_at_the_threshold_does_not_fire(threshold, kept):
    _, scores = decode(*one_cell(logit=0.0), SIZES, DecodeSettings(threshold, 0.0, strides=(8,)))
    assert len(scores) == kept


def test_a_probability_of_one_half_is_outside():
    _, scores = decode(*one_cell(kernel=0.0), SIZES, DecodeSettings(strides=(0,)))
    assert scores.tolist() == []


@pytest.mark.parametrize(("stride", "kept"), [(24, 0), (23, 1)])
def test_an_area_at_the_stride_is_dropped(stride, kept):
    _, scores = decode(*one_cell(), SIZES, DecodeSettings(strides=(stride,)))
    assert len(scores) == kept


@pytest.mark.parametrize(("nudge", "kept"), [(0.0, 1), (1e-12, 0)])
def test_a_score_at_the_update_threshold_stays(nudge, kept):
    _, scores = decode(*one_cell(), SIZES, DecodeSettings(strides=(8,)))
    _, again = decode(*one_cell(), SIZES, DecodeSettings(update_threshold=scores.item() + nudge, strides=(8,)))
    assert len(again) == kept


def test_a_mask_that_vanishes_at_the_original_size_is_dropped():
    features = torch.full((1, 4, 6), -1.0, dtype=torch.float64)
    features[0, :, 5] = 1.0  # lies in the padding only
    sizes = Sizes((16, 24), (16, 19), (16, 19))
    _, scores = decode(*one_cell(features=features), sizes, DecodeSettings(strides=(3,)))
    assert len(scores) == 0
    _, scores = decode(*one_cell(features=features), sizes._replace(resized=(16, 24)), DecodeSettings(strides=(3,)))
    assert len(scores) == 1


def test_equal_scores_keep_level_row_column_class_order():
    """Four equal cells in a 2x2 grid at two levels, told apart by masks that do not meet."""
    features = torch.full((8, 2, 8), -5.0, dtype=torch.float64)
    for item in range(8):
        features[item, :, item] = 5.0
    # Point NMS keeps equal neighbours: a cell only has to equal the maximum.
    logits = [torch.zeros(1, 2, 2, dtype=torch.float64)] * 2
    eye = torch.eye(8, dtype=torch.float64)
    kernels = [eye[:, :4].reshape(8, 2, 2), eye[:, 4:].reshape(8, 2, 2)]
    masks, scores = decode(logits, kernels, features, Sizes((8, 32), (8, 32), (2, 8)), DecodeSettings(strides=(1, 1)))
    assert torch.equal(scores, scores[:1].expand(8))
    assert masks.any(1).to(torch.uint8).argmax(1).tolist() == list(range(8))


# ---- the parts on their own


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_point_nms_equals_plain_loops(values):
    """Few distinct values, so that ties are common."""
    planes = torch.tensor([values], dtype=torch.float64) / 4
    assert point_nms(planes)[0].tolist() == oracle_point_nms(planes[0].tolist())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 7), st.integers(1, 2))
def test_matrix_nms_equals_the_formula(seed, count, kinds):
    random = np.random.default_rng(seed)
    masks = random.random((count, 3, 4)) < 0.5
    masks[:, 0, 0] = True
    classes = random.integers(kinds, size=count)
    scores = np.sort(random.random(count))[::-1].copy()
    pixels = [set(zip(*np.nonzero(mask), strict=True)) for mask in masks]
    got = matrix_nms(torch.from_numpy(masks), torch.from_numpy(classes), torch.from_numpy(scores))
    assert got.tolist() == pytest.approx(oracle_nms(pixels, classes.tolist(), scores.tolist()), abs=1e-12)


def test_classes_do_not_decay_each_other():
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    scores = torch.tensor([0.9, 0.8])
    assert matrix_nms(mask, torch.tensor([0, 1]), scores).tolist() == scores.tolist()
    assert matrix_nms(mask, torch.tensor([0, 0]), scores)[1].item() == pytest.approx(0.8 * math.exp(-2))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 0.9))
def test_boxes_equal_plain_loops(seed, density):
    masks = np.random.default_rng(seed).random((3, 5, 7)) < density
    masks[:, 2, 3] = True
    for mask, loose, tight in zip(
        masks,
        mask_boxes(torch.from_numpy(masks), "reference"),
        mask_boxes(torch.from_numpy(masks), "tight"),
        strict=True,
    ):
        xs = [x for x in range(7) if any(mask[y][x] for y in range(5))]
        ys = [y for y in range(5) if any(mask[y][x] for x in range(7))]
        cx, cy, w, h = sum(xs) / len(xs), sum(ys) / len(ys), len(xs) / 2, len(ys) / 2
        assert loose.tolist() == pytest.approx([cx - w, cy - h, cx + w, cy + h], abs=1e-5)
        assert tight.tolist() == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_boxes_of_masks_with_and_without_gaps():
    masks = torch.zeros(3, 4, 10, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True  # one piece
    masks[1, 0, 0] = masks[1, 0, 9] = True  # two far pixels: the reference box misses both
    masks[2, :, 0] = True  # column 0 only: the reference box starts left of the image
    assert mask_boxes(masks, "reference").tolist() == [
        [1.5, 0.5, 5.5, 2.5],
        [3.5, -0.5, 5.5, 0.5],
        [-0.5, -0.5, 0.5, 3.5],
    ]
    assert mask_boxes(masks, "tight").tolist() == [[2, 1, 6, 3], [0, 0, 10, 1], [0, 0, 1, 4]]
    assert mask_boxes(masks, "tight").dtype == mask_boxes(masks, "reference").dtype == torch.float32


@pytest.mark.parametrize(
    "bad",
    [
        {"score_threshold": 1.5},
        {"update_threshold": -0.1},
        {"max_candidates": 0},
        {"max_proposals": 0},
        {"box": "loose"},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ParameterError, match=next(iter(bad))):
        DecodeSettings(**bad)
