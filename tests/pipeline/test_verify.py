"""``glimpse verify``: every line on the golden folder, a changed array, what a folder lacks, exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.golden.check import Check, check, largest, relative_l2, unequal
from pipeline.golden.folder import Absent, Arrays, Folder
from pipeline.golden.proposals import misplaced, most_flipped
from pipeline.golden.results import Scored, check_results
from store.errors import DataError, GlimpseError

GOLDEN = Path(__file__).parents[1] / "golden"


def verify(folder: Path) -> tuple[int, list[str]]:
    """Exit status and lines."""
    done = CliRunner().invoke(app, ["verify", "--golden", str(folder)])
    if isinstance(done.exception, GlimpseError):
        raise done.exception
    return done.exit_code, done.output.splitlines()


def part_of_golden(at: Path, *names: str) -> Path:
    """A folder with some of the golden files, and weights.py."""
    for name in ("weights.py", *names):
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(GOLDEN / name, at / name)
    return at


def changed(file: Path, name: str, change: Any) -> None:
    with np.load(file) as arrays:
        values = dict(arrays)
    values[name] = change(values[name])
    np.savez(file, **values)


def test_the_golden_folder_passes() -> None:
    status, lines = verify(GOLDEN)
    *checks, summary = lines
    assert status == 0, "\n".join(lines)
    assert summary == f"{len(checks)} pass, 0 fail, 0 not in this folder"
    assert all(" pass" in line and "error" in line and "tolerance" in line for line in checks)
    told = "\n".join(checks)
    for quantity in (
        *("clean sentences", "noun phrases", "token ids", "row 14, defined", "row 36, defined"),
        *("number of proposals", "order of proposals", "mask pixels", "ResNet samples", "matrix NMS"),
        *("k = 1", "k = 3", "k = 6", "class token", "7 x 7 grid", "truncated boxes", "feature map", "sentence vectors"),
        *("fused scores", "chosen proposal", "I and U", "oIoU, empty: skip", "mIoU, empty: count"),
    ):
        assert quantity in told, quantity


def test_a_changed_array_fails_with_its_line_and_absent_files_are_named(tmp_path: Path) -> None:
    names = "clip_rn50_astronaut.npz", "freesolo_astronaut.npz", "images/astronaut.png"
    folder = part_of_golden(tmp_path, *names)

    def change(vectors: Any) -> Any:
        vectors[7] *= 1.0005
        return vectors

    changed(folder / names[0], "global", change)
    status, lines = verify(folder)
    assert status == 1
    failed = [line for line in lines if "FAIL" in line]
    assert len(failed) == 1
    assert failed[0].split()[:4] == ["RN50", "astronaut", "global", "features"]
    assert "error 0.0005 " in failed[0]
    absent = {line.split("not in this folder")[1].strip() for line in lines[:-1] if "not in this folder" in line}
    assert {"text.json", "text.npz", "pipeline.json", "freesolo_shapes.json"} < absent
    assert any("local features" in line and " pass" in line for line in lines)


def test_a_changed_phrase_fails_and_is_named(tmp_path: Path) -> None:
    folder = part_of_golden(tmp_path, "text.json")
    document = json.loads((folder / "text.json").read_text())
    document["expressions"][1]["noun_phrase"] = "the man"
    del document["expressions"][2]["token_ids_noun"]
    (folder / "text.json").write_text(json.dumps(document))
    status, lines = verify(folder)
    failed = [line for line in lines if "FAIL" in line]
    assert status == 1
    assert [line[24:51].strip() for line in failed] == ["noun phrases", "token ids of noun phrases"]
    assert "rows that differ: [2]" in failed[0]
    assert "rows without it: [5]" in failed[1]


@pytest.mark.parametrize("names", [[], ["README.md"], ["gt_masks.npz", "images/astronaut.png"]])
def test_nothing_to_check_is_an_error(tmp_path: Path, names: list[str]) -> None:
    part_of_golden(tmp_path, *names)
    with pytest.raises(DataError, match="expected golden files to check"):
        verify(tmp_path)


def test_a_folder_without_its_weights_code_is_an_error(tmp_path: Path) -> None:
    (part_of_golden(tmp_path, "text.json") / "weights.py").unlink()
    with pytest.raises(DataError, match=r"weights\.py: expected the code"):
        verify(tmp_path)
    (tmp_path / "weights.py").write_text("SEEDS = {}\n")
    with pytest.raises(DataError, match="expected it to define fill, fill_state_dict, checksum"):
        verify(tmp_path)


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    folder = Folder(part_of_golden(tmp_path, "text.json", "freesolo_astronaut.npz"))
    (tmp_path / "freesolo_astronaut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="cannot read it"):
        folder.arrays("freesolo_astronaut.npz")
    (tmp_path / "text.json").write_text("[1]")
    with pytest.raises(DataError, match="expected an object, got list"):
        folder.rows("text.json", "expressions")
    np.savez(tmp_path / "freesolo_astronaut.npz", bits=np.zeros(1, np.uint8), bits_shape=np.array([1, 3, 3]))
    arrays = folder.arrays("freesolo_astronaut.npz")
    with pytest.raises(DataError, match=r"expected 9 bits .* got 8"):
        arrays.masks("bits")
    with pytest.raises(Absent, match=r"^scores of freesolo_astronaut\.npz$"):
        arrays["scores"]


def test_images_are_those_of_pictures_and_files(tmp_path: Path) -> None:
    part_of_golden(tmp_path, "text.json", "images/astronaut.png")
    (tmp_path / "clip_rn50_a_cat.npz").touch()
    (tmp_path / "images" / "b.jpg").touch()
    (tmp_path / "images" / "notes.txt").touch()
    folder = Folder(tmp_path)
    assert folder.images == ["a_cat", "astronaut", "b"]
    with pytest.raises(Absent, match=r"images/a_cat\.png"):
        folder.image("a_cat")


def test_no_number_fails_and_absence_does_not(tmp_path: Path) -> None:
    def lost() -> float:
        raise Absent("x of y.npz")

    assert check("p", "q", 1.0, lambda: float("nan")).failed
    assert check("p", "q", 1.0, lambda: (1.0, "n")) == Check("p", "q", 1.0, 1.0, "n")
    assert not check("p", "q", 1.0, lambda: 1.0).failed
    assert check("p", "q", 1.0, lambda: 1.0001).verdict == "FAIL"
    assert check("p", "q", 1.0, lost) == Check("p", "q", None, 1.0, "x of y.npz")
    assert not check("p", "q", 1.0, lost).failed


def test_distances() -> None:
    assert largest([1, 2, 4], [1, 2.5, 3]) == 1
    assert largest([1, 2], [1, 2, 3]) == largest([[1]], [1]) == float("inf")
    assert np.isnan(largest([1, np.nan], [1, 2]))
    assert largest([], []) == 0
    a = np.array([[3.0, 4.0], [0.0, 2.0]])
    assert relative_l2(a + np.array([[0, 0], [0, 0.5]]), a) == 0.25
    assert relative_l2(a[:1], a) == float("inf")
    assert np.isnan(relative_l2(a * np.nan, a))
    assert unequal([1, 2, 3], [1, 3]) == 2


def test_order_and_pixels_of_masks() -> None:
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :2], masks[1, 2:], masks[2, :, :3] = True, True, True
    assert misplaced(masks, masks) == most_flipped(masks, masks) == 0
    assert misplaced(masks[[1, 0, 2]], masks) == 2
    assert misplaced(masks[[0, 0, 2]], masks[[0, 0, 2]]) == 0  # one mask twice, of two classes
    assert misplaced(masks[:2], masks) == most_flipped(masks[:2], masks) == float("inf")
    other = masks.copy()
    other[1, 0, :2] = True
    assert most_flipped(other, masks) == 2
    assert misplaced(masks[:0], masks[:0]) == most_flipped(masks[:0], masks[:0]) == 0


def test_arrays_are_read_whole() -> None:
    arrays = Arrays(GOLDEN / "gt_masks.npz")
    with np.load(GOLDEN / "gt_masks.npz") as stored:
        assert set(arrays) == set(stored.files)
    mask = arrays.masks("astronaut_0", "astronaut_shape")
    assert mask.shape == (511, 383)
    assert mask.sum() in (57421, 23400)


def test_results_with_a_tie_an_empty_image_and_two_targets_of_one_area(tmp_path: Path) -> None:
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :2], masks[1, 2:], masks[2, :, :3] = True, True, True
    truths = np.stack([masks[0][:, ::-1], masks[1]])  # 12 pixels each; the target is the second
    np.savez(tmp_path / "freesolo_x.npz", pred_masks=np.packbits(masks), pred_masks_shape=masks.shape)
    np.savez(tmp_path / "gt_masks.npz", x_0=np.packbits(truths[0]), x_1=np.packbits(truths[1]), x_shape=masks.shape[1:])

    def result(argmax: int, near_top: list[int], i: int, u: int) -> dict[str, Any]:
        scores = [1.0, 1.0, 0.0] if len(near_top) > 1 else [1.0, 0.0, 2.0]
        named = {"mode": "vit", "alpha": 0.5, "beta": 0.5, "I": i, "U": u, "iou": i / u}
        return {**named, "argmax": argmax, "near_top": near_top, "scores": scores}

    items = [
        {"image": "x", "target_area": 12, "n_masks": 3, "results": [result(1, [0, 1], 12, 12), result(2, [2], 6, 18)]},
        {"image": "y", "target_area": 6, "n_masks": 0, "results": []},
    ]
    ours = [np.array([1.00001, 1.0, 0.0]), np.array([1.0, 0.0, 2.0])]
    scored = [Scored(items[0], r, s) for r, s in zip(items[0]["results"], ours, strict=True)]
    found = list(check_results("vit", Folder(tmp_path), items, scored))
    assert not any(line.failed for line in found)
    assert found[1].note == "2 of 2 results, 1 chosen otherwise within a tie"
    assert [line.quantity for line in found][-4:] == [
        f"{name}, empty: {policy}" for policy in ("count", "skip") for name in ("oIoU", "mIoU")
    ]
    assert found[-1].note == "1 settings, 1 sentences without proposals"
    wrong = [scored[0], Scored(items[0], items[0]["results"][1], ours[0])]  # chooses 0, outside near_top
    failed = [line.quantity for line in check_results("vit", Folder(tmp_path), items, wrong) if line.failed]
    assert failed[:4] == ["fused scores", "chosen proposal", "I and U, px", "IoU"]
    assert set(failed[4:]) == {line.quantity for line in found[-4:]}
