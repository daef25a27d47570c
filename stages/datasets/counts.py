"""How many refs, images and sentences a published split has, and whether what was read agrees.

Other counts are no error: a part of a data set is a fair choice. But metrics of other refs than the published ones do not
compare with published numbers, so every difference is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from stages.datasets.fields import NO_ID
from stages.datasets.rows import RefRow


@dataclass(frozen=True)
class Counts:
    """Refs, distinct images of these refs, and sentences of one split."""

    refs: int
    images: int
    sentences: int


EXPECTED: dict[tuple[str, str, str], Counts] = {
    ("refcoco", "unc", "val"): Counts(3811, 1500, 10834),
    ("refcoco", "unc", "testA"): Counts(1975, 750, 5657),
    ("refcoco", "unc", "testB"): Counts(1810, 750, 5095),
    ("refcoco+", "unc", "val"): Counts(3805, 1500, 10758),
    ("refcoco+", "unc", "testA"): Counts(1975, 750, 5726),
    ("refcoco+", "unc", "testB"): Counts(1798, 750, 4889),
    ("refcocog", "umd", "val"): Counts(2573, 1300, 4896),
    ("refcocog", "umd", "test"): Counts(5023, 2600, 9602),
    ("refcocog", "google", "val"): Counts(5000, 4650, 9536),
    ("phrasecut", "", "val"): Counts(20316, 2971, 20316),
    ("phrasecut", "", "test"): Counts(14354, 2545, 14354),
}
"""(folder, split_by, split) -> counts. PhraseCut has one sentence, the phrase, for each ref."""
UNVERIFIED: frozenset[tuple[str, str, str]] = frozenset(
    {("refcoco+", "unc", "sentences"), ("refcocog", "umd", "sentences"), ("refcocog", "google", "sentences")}
)
"""(folder, split_by, number) that is reported, but could not be checked against a source we could open."""


def count(refs: Sequence[RefRow], split: str) -> Counts:
    """What was read of ``split``, faulty refs included; an image id that cannot be read is no image."""
    rows = [ref for ref in refs if split in ref.splits]
    images = {ref.image_id for ref in rows} - {NO_ID}
    return Counts(len(rows), len(images), sum(len(ref.sentences) for ref in rows))


def differences(name: str, folder: str, split_by: str, splits: Sequence[str], refs: Sequence[RefRow]) -> list[str]:
    """A line for each split of data set ``name`` whose counts are known and other than those of ``refs``."""
    lines = []
    for split in dict.fromkeys(splits):
        expected = EXPECTED.get((folder, split_by, split))
        if expected is None:
            continue
        found = count(refs, split)
        differing = [
            f"expected {wanted:,} {number}{_doubt(folder, split_by, number)}, found {got:,}"
            for number, wanted, got in zip(_NUMBERS, astuple(expected), astuple(found), strict=True)
            if wanted != got
        ]
        if differing:
            lines.append(f"data set {name}, split {split}: {'; '.join(differing)}")
    return lines


_NUMBERS = ("refs", "images", "sentences")


def _doubt(folder: str, split_by: str, number: str) -> str:
    return " (as reported, not verified by us)" if (folder, split_by, number) in UNVERIFIED else ""
