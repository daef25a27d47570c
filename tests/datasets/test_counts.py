"""Counts of published splits: what is compared, and what a difference says."""

from __future__ import annotations

from pathlib import Path

from pipeline.arguments import checked
from stages import index
from stages.contract import Context
from stages.datasets.choice import differing_counts
from stages.datasets.counts import Counts, count, differences
from stages.datasets.registry import KINDS, Choice
from stages.datasets.rows import RefRow, SentenceRow
from tests.helpers.refer_files import data_root, write_images


def ref(ref_id: int, image_id: int, *splits: str, sentences: int = 2, status: str = "") -> RefRow:
    rows = tuple(SentenceRow(10 * ref_id + i, "a", "") for i in range(sentences))
    return RefRow(ref_id, (ref_id,), image_id, 1, "dog", splits[0], splits, rows, status)


REFS = [
    ref(1, 7, "val"),
    ref(2, 7, "val", "test", sentences=3),
    ref(3, 8, "test", sentences=0, status="bad"),
    ref(4, -1, "val"),
]


def test_counts_are_those_of_one_split() -> None:
    assert count(REFS, "val") == Counts(refs=3, images=1, sentences=7)
    assert count(REFS, "test") == Counts(refs=2, images=2, sentences=3)
    assert count(REFS, "train") == Counts(0, 0, 0)


def test_equal_counts_are_silent() -> None:
    assert differences("x", {"val": Counts(3, 1, 7), "test": Counts(2, 2, 3)}, REFS) == []
    assert differences("x", {}, REFS) == []


def test_only_the_numbers_that_differ_are_named() -> None:
    published = {"val": Counts(3, 1500, 7000, unverified=("sentences",))}
    assert differences("mine", published, REFS) == [
        "data set mine, split val: expected 1,500 images, found 1; "
        "expected 7,000 sentences (as reported, not verified by us), found 7"
    ]


def test_the_published_counts() -> None:
    """Each of them is compared, by what publications call the split, whatever its folder or name in the metrics."""
    refer, phrasecut = KINDS["refer"].counts, KINDS["phrasecut"].counts
    assert len(refer) == 9
    assert len(phrasecut) == 2
    for (folder, split_by, split), expected in {**refer, **phrasecut}.items():
        if folder == "phrasecut":
            choice = Choice(kind="phrasecut", folder="VGPhraseCut", splits=[split, "miniv"])
            assert expected.refs == expected.sentences
        else:
            choice = Choice(folder=f"sets/{folder}", split_by=split_by, splits=[split, split, "train"])
        (line,) = differing_counts("x", choice, [])
        doubt = " (as reported, not verified by us)" if folder in ("refcoco+", "refcocog") else ""
        assert line == (
            f"data set x, split {split}: expected {expected.refs:,} refs, found 0; expected {expected.images:,} images, "
            f"found 0; expected {expected.sentences:,} sentences{doubt}, found 0"
        )
    for changed in ({"folder": "other"}, {"split_by": "berkeley"}, {"splits": ["train"]}, {"categories": "unseen"}):
        choice = Choice(**{"folder": "refcoco", "split_by": "unc", "splits": ["val"], **changed})
        assert differing_counts("x", choice, []) == []


def test_a_read_data_set_of_another_size_is_a_warning_and_no_error(tmp_path: Path) -> None:
    write_images(data_root(tmp_path))
    values = {"datasets": {"mine": {"folder": "refcoco", "split_by": "unc", "splits": ["val", "train"]}}}
    paths = index.Paths(annotations=tmp_path, images=tmp_path, index=tmp_path / "index.h5")
    summary = index.run(checked(index.Params, values, "index"), paths, Context(tmp_path / "work"))
    assert summary.warnings == [
        "data set mine, split val: expected 3,811 refs, found 1; expected 1,500 images, found 1; "
        "expected 10,834 sentences, found 2"
    ]
    assert not any("3,811" in line for line in summary.skipped)
