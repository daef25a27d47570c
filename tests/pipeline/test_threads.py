"""Stages that compute several images at once: the numbers of one thread, and the same bytes whatever was left to compute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from demo.refshapes import write_benchmark
from store.table import read_table
from store.vectors import Vectors
from tests.helpers.profile import ROOT, command_of, demo_values

STAGES = ("propose", "embed_masks")


def run(folder: Path, name: str, threads: int, stages: tuple[str, ...] = ("index", *STAGES), unit: int = 2) -> None:
    values = demo_values(folder)
    values |= {"data": f"{folder}/{name}", "work": f"{folder}/work-{name}"}
    values["embed_masks"]["views"] = ["global", "local", "region_token", "clear_clip", "text_region"]
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    environment = {**os.environ, "GLIMPSE_UNIT": str(unit), "OMP_NUM_THREADS": str(threads)}
    for stage in stages:
        words = command_of(stage, values)[1:]
        subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, capture_output=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_images_at_once_are_images_in_turn(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "refer", images_per_split=1)
    run(tmp_path, "one", 1)
    run(tmp_path, "four", 4)
    one, four = (read_table(tmp_path / name / "proposals.h5", "proposals") for name in ("one", "four"))
    np.testing.assert_array_equal(one["image_offsets"], four["image_offsets"])
    np.testing.assert_allclose(one["score"], four["score"], rtol=1e-4)
    np.testing.assert_allclose(one["area"], four["area"], rtol=0.01, atol=2)  # a pixel on the threshold may fall
    shutil.copyfile(tmp_path / "one/proposals.h5", tmp_path / "four/proposals.h5")
    run(tmp_path, "four", 4, ("embed_masks",))
    expected, found = (Vectors(tmp_path / name / "mask_features/vit", "mask_features") for name in ("one", "four"))
    assert expected.members("view") == ["clear_clip", "global.k3", "local", "region_token", "text_region"]
    for view in expected.members("view"):
        vectors = expected.rows(f"view.{view}")
        assert len(vectors) == len(one["score"]) > 30
        assert np.abs(found.rows(f"view.{view}") - vectors).max() < 1e-5 * np.abs(vectors).max()


def test_what_is_computed_again_has_the_same_bytes(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "refer", images_per_split=2)
    run(tmp_path, "data", 4)
    before = contents(tmp_path / "data")
    (tmp_path / "data/proposals.h5").unlink()  # an output serves for its parts
    shutil.rmtree(tmp_path / "data/mask_features")
    parts = sorted(
        part for stage in ("propose", "embed_masks@vit") for part in (tmp_path / "work-data" / stage).rglob("*.npz")
    )
    written = {part: part.stat().st_mtime_ns for part in parts}
    assert len(parts) > 10
    for part in parts[::2]:
        part.unlink()
    run(tmp_path, "data", 4, STAGES, unit=1)  # fewer images than threads in each unit
    assert all(part.stat().st_mtime_ns == written[part] for part in parts[1::2])
    assert contents(tmp_path / "data") == before
