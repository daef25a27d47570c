"""Large numbers of things on one image, or in one run, within a stated bound of memory; and what preflight expects."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.commands.tune import result_of, search_of
from pipeline.project import load_project
from pipeline.registry import STAGES, UP_TO_PAIR
from pipeline.setup.estimates import Counts, estimates
from stages.datasets.ground_truth import union as union_of
from stages.proposals.boxes import boxes_by_rule
from stages.proposals.items import item_of
from stages.scoring.comparison import TOO_FEW
from stages.scoring.metrics import resampled_sums
from store.errors import ParameterError
from store.memory import memory_of_machine
from store.overlap_counts import overlap_counts
from store.segmentation import areas, as_rle, decode, encode
from store.table import read_table
from tests.helpers.profile import ROOT, profile_at, run_stages
from tests.helpers.refer_files import annotation_row, image_row, python2_pickle, ref_row
from tests.helpers.refer_generator import random_pictures

MASKS, REFS = 1_000, 300
ANNOTATIONS = 2_509_373
"""Bytes of the largest data set of RefShapes, as the demo writes it."""


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """1,000 rectangles on an image of 60 x 80."""
    rng = np.random.default_rng(0)
    rows, columns = np.sort(rng.integers(0, 61, (MASKS, 2)), axis=1), np.sort(rng.integers(0, 81, (MASKS, 2)), axis=1)
    rows[:, 1] += rows[:, 0] == rows[:, 1]
    columns[:, 1] += columns[:, 0] == columns[:, 1]
    y, x = np.arange(61)[None, :, None], np.arange(81)[None, None, :]
    return (y >= rows[:, :1, None]) & (y < rows[:, 1:, None]) & (x >= columns[:, :1, None]) & (x < columns[:, 1:, None])


def test_a_thousand_masks_of_an_image_and_hundreds_of_refs(masks: np.ndarray) -> None:
    """More than 255 at once, which pycocotools' area could not count under numpy 2."""
    counts, (height, width) = encode(masks), masks.shape[1:]
    np.testing.assert_array_equal(areas(counts, height, width), masks.sum((1, 2)))
    np.testing.assert_array_equal(decode(counts, height, width), masks)
    item = item_of(counts, np.ones(MASKS), height, width)
    assert len(item["area"]) == len(boxes_by_rule(counts, height, width)["tight"]) == MASKS
    rles = [as_rle(c, height, width) for c in counts]
    intersection, union = overlap_counts(rles, rles[:REFS])
    together = union_of(rles)["counts"]
    np.testing.assert_array_equal(decode([together], height, width)[0], masks.any(0))
    flat = masks.reshape(MASKS, -1).astype(np.int64)
    np.testing.assert_array_equal(intersection, flat @ flat[:REFS].T)
    np.testing.assert_array_equal(union, flat.sum(1)[:, None] + flat.sum(1)[None, :REFS] - flat @ flat[:REFS].T)


def test_the_bootstrap_is_drawn_in_blocks() -> None:
    """60,000 resamples of 2,000 images are 0.9 GiB of counts; a fraction of them is held at once."""
    sums = np.random.default_rng(1).random((2_000, 2))
    tracemalloc.start()
    drawn = resampled_sums(sums, 60_000, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20
    assert drawn.shape == (60_000, 2)
    np.testing.assert_allclose(drawn.mean(0), sums.sum(0), rtol=1e-3)


def profile(folder: Path, **propose: object) -> Path:
    values = yaml.safe_load((ROOT / "demo/params.yaml").read_text())
    values["propose"] |= propose
    (folder / "params.yaml").write_text(yaml.safe_dump({**values, "root": str(ROOT)}))
    return folder / "params.yaml"


def test_estimates_grow_with_what_there_is(tmp_path: Path) -> None:
    values = load_project(profile(tmp_path)).values
    small, large = Counts(300, 1_751, 3_068, 10**6), Counts(60_000, 350_000, 600_000, 10**8)
    weights, before = {"vit": 10**6, "resnet": 10**6}, None
    runs = ((small, 50, 0, 1), (large, 50, 0, 1), (large, 1000, 0, 1), (large, 1000, 0, 4), (large, 1000, 4, 4))
    for counts, proposals, workers, cores in runs:
        values = load_project(profile(tmp_path, max_proposals=proposals)).values
        now = estimates(values, counts, weights, 10**6, workers, cores=cores)
        assert [each.stage for each in now] == list(STAGES)
        if before is not None:
            assert all(a.memory >= b.memory and a.disk >= b.disk for a, b in zip(now, before, strict=True))
            assert sum(each.memory for each in now) > sum(each.memory for each in before)
        before = now


def test_estimates_hold_for_the_demo() -> None:
    """Records of one finished demo run: MiB of memory at the peak, bytes of outputs.

    The estimates were fitted to this very run, so this keeps them from drifting and says nothing about larger data.
    Memory is None where that run computed nothing (all parts were there), so that nothing was measured.
    """
    took: dict[str, tuple[int | None, int]] = {
        "index": (99, 1_379_697),
        "propose": (767, 1_853_604),
        "embed_masks": (None, 38_352_316),
        "parse": (682, 447_124),
        "embed_text": (861, 4_131_058),
        "overlap": (72, 729_051),
        "pair": (232, 15_305_549),
        "score": (102, 1_028_255),
        "sweep": (183, 72_273),
        "report": (116, 2_821_189),
    }
    values = load_project(ROOT / "demo/params.yaml").values
    weights = {name: (ROOT / encoder.weights).stat().st_size for name, encoder in values.encoders.items()}
    generator = (ROOT / values.propose.input).stat().st_size
    counts = Counts(300, 1_751, 3_068, ANNOTATIONS)
    for each in estimates(values, counts, weights, generator, widths={"vit": 128}):
        if each.stage in took:
            memory, disk = took[each.stage]
            assert memory is None or memory / 1.5 < each.memory / 2**20 < memory * 2.5, each
            assert each.disk > disk / 2 or disk < 10**5, each


def test_numbers_of_things_that_a_byte_or_a_block_would_not_hold(tmp_path: Path) -> None:
    """260 refs and an endless sentence on one image, which is the whole data set; a split of which no expression is left."""
    values = profile_at(tmp_path, refer := tmp_path / "refer")
    values["index"]["datasets"] = {"one": {"split_by": "synth", "splits": ["val", "testA"]}}
    values["propose"] |= {"source": "instances"}
    boxes = [(x, y) for x in range(20) for y in range(13)]
    sentences = [f"the red ball number {n}" for n in range(258)] + ["ball " * 300_000, " "]
    annotations = [
        annotation_row(n + 1, 1, segmentation=[[x, y, x + 5, y, x + 5, y + 4, x, y + 4]], bbox=[x, y, 5, 4], area=20.0)
        for n, (x, y) in enumerate(boxes)
    ]
    refs = [
        ref_row(n + 1, n + 1, 1, "testA" if n == 259 else "val",
                sentences=[{"raw": text, "sent": text, "sent_id": n, "tokens": text.split()}], sent_ids=[n])
        for n, text in enumerate(sentences)
    ]  # fmt: skip
    (refer / "one").mkdir(parents=True)
    (refer / "images").mkdir()
    row = image_row(1, width=40, height=30)
    random_pictures(0, [(40, 30)])[0].save(refer / "images" / row["file_name"])
    instances = {"images": [row], "annotations": annotations, "categories": [{"id": 3, "name": "ball"}]}
    (refer / "one/instances.json").write_text(json.dumps(instances))
    python2_pickle(refs, 2, "utf-8", refer / "one/refs(synth).p")
    records = run_stages(values, *UP_TO_PAIR, "score")
    assert records["pair"]["wrote"]["pairs"] == 260 * 260
    overlaps = read_table(Path(values["data"]) / "overlap.h5", "overlap", ("intersection",))["intersection"]
    assert len(overlaps) == 260 * 260
    inside = np.array([[max(0, 5 - abs(a - c)) * max(0, 4 - abs(b - d)) for c, d in boxes] for a, b in boxes])
    np.testing.assert_array_equal(np.sort(overlaps), np.sort(inside.ravel()))
    assert "expression 258: 1,500,000 characters, expected at most 10,000" in records["pair"]["skipped"]
    assert f"one val: {TOO_FEW}" in records["score"]["warnings"]
    metrics = json.loads(Path(values["metrics"]).read_text())["one"]
    val, empty = metrics["val"], metrics["testA"]
    assert (val["upper_bound"]["n"], val["upper_bound"]["miou"]) == (258, 1.0)
    assert not {"miou_ci", "oiou_ci", "versus"} & val["global"].keys()
    assert (empty["global_local"]["n"], empty["global_local"]["miou"]) == (0, None)
    project = load_project(Path(values["profile"]))
    with pytest.raises(ParameterError, match="one/testA has no expression that is evaluated; search on another split"):
        result_of(project, search_of("global_local", ["one/testA"], [], "miou", 5, 0), "")
    assert result_of(project, search_of("global_local", ["one/val"], [], "miou", 5, 0), "")["splits"] == []


RUNS = {
    "one image with one expression": (
        Counts(1, 1, 1, 600),
        {},
        {
            "index": (71, 0), "propose": (720, 0), "embed_masks": (953, 0.5), "parse": (652, 0), "embed_text": (866, 0),
            "overlap": (69, 0), "pair": (252, 0), "score": (73, 0), "ablations": (69, 0), "sweep": (254, 0),
            "report": (189, 1),
        },
    ),
    "one image with 20,000 sentences": (
        Counts(1, 10, 20_000, 3_000_000),
        {},
        {
            "index": (106, 1.7), "propose": (724, 0), "embed_masks": (961, 0.5), "parse": (701, 13.6),
            "embed_text": (898, 27), "overlap": (73, 0), "pair": (356, 39), "score": (147, 3.7), "ablations": (145, 0),
            "sweep": (262, 0), "report": (233, 2.1),
        },
    ),
    "two images with 1,000 masks and 400 refs each": (
        Counts(2, 800, 800, 300_000),
        {"source": "masks", "max_proposals": 1_000},
        {
            "index": (74, 0.4), "propose": (304, 0), "embed_masks": (1_308, 4.2), "parse": (659, 0.2),
            "embed_text": (869, 0.3), "overlap": (111, 16), "pair": (329, 44.3), "score": (150, 4), "ablations": (154, 0),
            "sweep": (269, 0), "report": (227, 2.1),
        },
    ),
}  # fmt: skip
"""What runs of the demo's ViT with views global and local took, by stage: MiB of memory at the peak (`peak_bytes` of the
records, a process a stage, one thread), MiB of outputs and parts (0: less than 0.5). The masks of the last were noise, as no
generator's are: what they take on disk (2.8 MiB) says nothing."""


@pytest.mark.parametrize("name", RUNS)
def test_estimates_hold_for_extremes(tmp_path: Path, name: str) -> None:
    """From above, and by no more than a small factor."""
    counts, propose, took = RUNS[name]
    file = profile(tmp_path, **propose)
    values = yaml.safe_load(file.read_text())
    values["embed_masks"] |= {"views": ["global", "local"], "settings": {}}
    values["encoders"] = {"vit": values["encoders"]["vit"]}
    values["rules"] = {"enabled": ["global_local"]}
    values["ablations"]["tune"], values["variants"]["sources"] = {}, []
    file.write_text(yaml.safe_dump(values))
    found = estimates(load_project(file).values, counts, {"vit": 12_565_890}, 3_191_612, widths={"vit": 128})
    for each in found:
        if each.stage in took:
            memory, disk = took[each.stage]
            assert memory <= each.memory / 2**20 <= 1.65 * memory, each
            assert disk <= each.disk / 2**20 <= max(4 * disk, 6), each


def test_estimates_hold_for_two_images_at_once() -> None:
    """What embed_masks took on two cores, MiB at the peak: the demo's two encoders; a random ViT-B/32 at the true size."""
    demo, full = load_project(ROOT / "demo/params.yaml").values, load_project(ROOT / "params.yaml").values
    for values, counts, weights, propose, embed_masks in (
        (demo, Counts(300, 1_751, 3_068, ANNOTATIONS), 12_565_890, 789, 1_855),
        (full, Counts(4, 12, 20, 10_000), 605_000_000, 2_798, 2_028),
    ):
        generator = 3_191_612 if values is demo else 220_000_000
        found = {e.stage: e.memory / 2**20 for e in estimates(values, counts, {"vit": weights}, generator, cores=2)}
        assert propose <= found["propose"] <= 1.65 * propose
        assert embed_masks <= found["embed_masks"] <= 2.2 * embed_masks


def test_the_machine_has_memory() -> None:
    assert 2**28 < memory_of_machine() < 2**50
