"""Means of maps inside masks against upsampling every map, and the maps of a table taken apart again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages.contract import Results
from stages.heat_maps import table as module
from stages.heat_maps.compute import LOST, item_of
from stages.heat_maps.registry import Asked
from stages.heat_maps.table import (
    PublishedMaps,
    asked_of,
    map_columns,
    mean_columns,
    pair_offsets,
    phrase_columns,
)
from store.errors import DataError
from store.ragged import Bytes, offsets_of
from store.segmentation import encode
from store.table import Table
from store.work import Parts

SIZES = [(9, 14), (30, 7), (12, 12)]
MASKS = [6, 0, 3]


@pytest.fixture
def tables() -> tuple[Table, Table, list[Any]]:
    """Index and proposals of three images, one without proposals; masks that are empty or of the whole image among them."""
    rng = np.random.default_rng(1)
    masks = [rng.random((n, *size)) < 0.4 for n, size in zip(MASKS, SIZES, strict=True)]
    masks[0][1], masks[0][2] = False, True
    index = Table(Path("i"), {"image_size": np.array(SIZES, np.int32), "ref_image": np.array([2, 0, 1, 0]),
                              "expression_ref": np.array([0, 0, 1, 2, 3])}, {})  # fmt: skip
    counts = Bytes.of(count for own in masks for count in encode(own))
    return index, Table(Path("p"), {"image_offsets": offsets_of(MASKS), "mask": counts}, {}), masks


def results_of(maps: dict[str, list[Any]], folder: Path) -> tuple[Results, dict[str, list[str]]]:
    """Results that parts hold, of which the key of phrase n is n."""
    kinds = {kind: Parts(folder, kind, {}) for kind in maps}
    keys = {kind: [str(row) for row in range(len(own))] for kind, own in maps.items()}
    for kind, own in maps.items():
        kinds[kind].append(keys[kind], [item_of(heat) for heat in own], 0.0)
    return Results(kinds), keys


@pytest.mark.parametrize("at_once", [1, 200, 1 << 24])
def test_means_are_those_of_the_upsampled_maps(
    tables: tuple[Table, Table, list[Any]], tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    index, proposals, masks = tables
    rng = np.random.default_rng(2)
    asked = [Asked(image, f"p{row}", "") for row, image in enumerate((0, 0, 1, 2))]
    lost = DataError("none")
    maps = {
        "a": [rng.normal(size=size).astype(np.float32) for size in ((3, 5), (4, 2), (2, 2), (7, 7))],
        "b": [lost, *(rng.random((3, 5)).astype(np.float32) for _ in range(2)), lost],
    }
    phrase_of = np.array([3, 3, 1, 2, -1])
    results, keys = results_of(maps, tmp_path)
    columns = phrase_columns(asked, phrase_of, pair_offsets(index, proposals)) | map_columns(results, keys)
    means = mean_columns(columns, list(maps), index, proposals)
    offsets = columns["expression_offsets"]
    assert offsets.tolist() == [0, 3, 6, 12, 12, 18]
    for kind, own in maps.items():
        inside, difference = means[f"inside.{kind}"], means[f"inside_minus_outside.{kind}"]
        assert inside.dtype == difference.dtype == np.float32
        for expression, phrase in enumerate(phrase_of):
            rows = range(offsets[expression], offsets[expression + 1])
            if phrase < 0 or own[phrase] is lost:
                assert np.isnan(inside[rows]).all()
                assert np.isnan(difference[rows]).all()
                continue
            image = asked[phrase].image
            heat = torch.from_numpy(own[phrase].astype(np.float64))[None, None]
            up = functional.interpolate(heat, SIZES[image], mode="bilinear", align_corners=False)[0, 0].numpy()
            for row, mask in zip(rows, masks[image], strict=True):
                if not mask.any():
                    assert np.isnan([inside[row], difference[row]]).all()
                    continue
                assert inside[row] == pytest.approx(up[mask].mean(), abs=2e-6)
                if mask.all():
                    assert np.isnan(difference[row])
                else:
                    assert difference[row] == pytest.approx(up[mask].mean() - up[~mask].mean(), abs=4e-6)


def test_a_table_gives_its_maps_back(tmp_path: Path) -> None:
    heat = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    results, keys = results_of({"a": [heat, DataError("gone: é")]}, tmp_path)
    results.stand_in("a", "x", item_of(heat))
    columns = map_columns(results, {"a": [*keys["a"], "x"]})
    assert columns["state.a"] == ["", LOST, ""]
    assert columns["status.a"] == ["", "gone: é", ""]
    assert columns["key.a"] == ["0", "1", ""], "a stand-in has no key: the next run tries again"
    parts = Parts(tmp_path, "a", {})
    table = Table(Path("t"), columns, {"parts": {"a": parts.folder.name}})
    published = PublishedMaps(table, {"a": parts})
    for key in keys["a"]:
        expected = parts.get(key)
        found = published.item("a", key)
        assert found is not None
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values)
    assert published.item("a", "x") is None
    assert PublishedMaps(table, {"a": Parts(tmp_path, "a", {"other": 1})}).item("a", "0") is None


def test_phrases_are_distinct_sentences_about_images() -> None:
    index = Table(Path("i"), {
        "ref_image": np.array([1, 0, 2]), "expression_ref": np.array([0, 0, 1, 1, 1, 2, 2]),
        "image_status": ["", "", "no file"], "expression_status": ["", "", "", "blank", "", "", ""],
        "expression_raw": ["Left!", "left", "left", "", "odd", "left", "x"],
    }, {})  # fmt: skip
    parse = Table(Path("p"), {
        "sentence": ["left", "left", "left", "", "odd", "left", "x"], "noun_phrase": list("abcdefg"),
        "other_phrases": ['["q", "r"]'] + ["[]"] * 6, "status": ["", "", "", "blank", "odd text", "", ""],
    }, {})  # fmt: skip
    asked, phrase_of = asked_of(index, parse)
    assert asked == [Asked(0, "left", "c", (), ("left",)), Asked(1, "left", "a", ("q", "r"), ("Left!", "left"))]
    assert phrase_of.tolist() == [1, 1, 0, -1, -1, -1, -1]
