"""Fused scores, choices, overlaps and metrics against the release: its masks, our vectors and our arithmetic."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.golden.check import SHAPES_DIFFER, Check, check, largest, unequal
from pipeline.golden.features import TITLES, Features, K, Rows
from pipeline.golden.folder import Absent, Folder
from stages.scoring.fusion import first_best, fused_scores
from stages.scoring.metrics import Empty, outcome_of_choice, summarise
from stages.text.noun_phrase import target_noun_phrase
from store.overlap_counts import overlap_counts
from store.segmentation import as_rle, encode

if TYPE_CHECKING:
    from spacy.language import Language

    from stages.visual.encoder import MaskedClip

SCORES = 0.01  # on the 100 x cosine scale
METRICS = 1e-6
Item = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """A sentence of pipeline.json under one setting: the release's numbers and ours."""

    item: Item
    result: Item
    scores: NDArray[np.float64]

    @property
    def best(self) -> int:
        return int(first_best(self.scores, np.array([0, len(self.scores)]))[0])

    @property
    def chosen(self) -> int:
        """Our choice; the release's where its own scores of the two tie."""
        return int(self.result["argmax"]) if self.best in self.result["near_top"] else self.best


@dataclass(frozen=True)
class Counts:
    """Pixels of every proposal of an image with one ground truth (P,), and the ground truth's own."""

    intersection: NDArray[np.int64]
    union: NDArray[np.int64]
    area: int


def score_items(
    mode: str, clip: MaskedClip, items: Sequence[Item], features: dict[str, tuple[Rows, Features]], nlp: Language
) -> list[Scored]:
    """Our scores of every result of ``mode`` whose image's features are there."""
    known = [item for item in items if item["image"] in features]
    parsed = [target_noun_phrase(nlp, item["raw"]) for item in known]
    strings = sorted({text for pair in parsed for text in pair})
    vectors = dict(zip(strings, clip.text_features(strings), strict=True))
    scored = []
    for item, (sentence, phrase) in zip(known, parsed, strict=True):
        rows, ours = features[item["image"]]
        f_global, f_local = ours.by_k[K][: rows.proposals], ours.local[: rows.proposals]
        for result in item["results"]:
            if result["mode"] == mode:
                texts = vectors[sentence], vectors[phrase]
                fused = fused_scores(f_global, f_local, *texts, result["alpha"], result["beta"], clip.score_rule)
                scored.append(Scored(item, result, fused))
    return scored


def check_results(mode: str, folder: Folder, items: Sequence[Item], scored: Sequence[Scored]) -> Iterator[Check]:
    """Scores, choices, counts of pixels and metrics of one encoder."""
    part = f"{TITLES[mode]} pipeline"
    listed = sum(result["mode"] == mode for item in items for result in item["results"])
    if not scored:
        yield Check(part, "all", None, note=f"results of {mode} for an image with all of its files")
        return
    note = f"{len(scored)} of {listed} results"
    errors = [largest(s.scores, s.result["scores"]) for s in scored]
    yield check(part, "fused scores", SCORES, lambda: (float(np.max(errors)), note))
    wrong = sum(s.best not in s.result["near_top"] for s in scored)
    ties = sum(s.best != s.chosen for s in scored)
    yield check(part, "chosen proposal", 0, lambda: (wrong, f"{note}, {ties} chosen otherwise within a tie"))
    try:
        tables = {name: _overlaps(folder, name) for name in sorted({s.item["image"] for s in scored})}
        counts = [_counts(s, tables[s.item["image"]]) for s in scored]
    except Absent as lost:
        yield Check(part, "overlaps and metrics", None, note=str(lost))
        return
    pairs = list(zip(scored, counts, strict=True))
    ours = [(int(c.intersection[s.chosen]), int(c.union[s.chosen])) for s, c in pairs]
    release = [(s.result["I"], s.result["U"]) for s in scored]
    yield check(part, "I and U, px", 0, lambda: (largest(ours, release), note))
    iou = [i / u if u else 0.0 for i, u in ours]
    yield check(part, "IoU", METRICS, lambda: (largest(iou, [s.result["iou"] for s in scored]), note))
    yield from _metrics(part, items, pairs)


def check_pipeline_texts(folder: Folder, items: Sequence[Item], nlp: Language) -> Iterator[Check]:
    """What pipeline.json says before any score: its sentences and their phrases."""
    ours = [list(target_noun_phrase(nlp, item["raw"])) for item in items]
    theirs = [[item["sentence"], item["noun_phrase"]] for item in items]
    yield check("pipeline text", "sentences and phrases", 0, lambda: (unequal(ours, theirs), f"{len(items)} rows"))


def _overlaps(folder: Folder, name: str) -> list[Counts]:
    """Of every ground truth of an image."""
    truths, proposals = folder.arrays("gt_masks.npz"), folder.arrays(f"freesolo_{name}.npz").masks("pred_masks")
    keys = [key for key in truths if re.fullmatch(rf"{re.escape(name)}_\d+", key)]
    if not keys:
        raise Absent(f"{name}_<k> of gt_masks.npz")
    masks = np.stack([truths.masks(key, f"{name}_shape") for key in keys])
    height, width = masks.shape[1:]
    proposed, targets = ([as_rle(c, height, width) for c in encode(m)] for m in (proposals, masks))
    intersection, union = overlap_counts(proposed, targets)
    return [Counts(i, u, int(mask.sum())) for i, u, mask in zip(intersection.T, union.T, masks, strict=True)]


def _counts(scored: Scored, tables: Sequence[Counts]) -> Counts:
    """The file names a target by its area alone: where several have it, the one that the release's counts fit best."""
    at, release = scored.result["argmax"], scored.result
    named = [table for table in tables if table.area == scored.item["target_area"]]
    if not named:
        raise Absent(f"a mask of {scored.item['target_area']} pixels for {scored.item['image']} in gt_masks.npz")
    return min(named, key=lambda t: abs(t.intersection[at] - release["I"]) + abs(t.union[at] - release["U"]))


def _metrics(part: str, items: Sequence[Item], pairs: Sequence[tuple[Scored, Counts]]) -> Iterator[Check]:
    """oIoU and mIoU in percent over the sentences of each setting: ours against sums over the release's I and U."""
    settings: dict[tuple[float, float], list[tuple[Scored, Counts]]] = defaultdict(list)
    for scored, counts in pairs:
        settings[scored.result["alpha"], scored.result["beta"]].append((scored, counts))
    empty_areas = [item["target_area"] for item in items if not item["n_masks"]]
    for policy in get_args(Empty):
        errors: dict[str, list[float]] = {"oiou": [], "miou": []}
        for rows in settings.values():
            ours = _ours(rows, empty_areas, policy)
            release = _release([s.result for s, _ in rows], empty_areas if policy == "count" else [])
            for name, expected in release.items():
                errors[name].append(abs(100 * ours[name] - expected))
        note = f"{len(settings)} settings, {len(empty_areas)} sentences without proposals"
        for name, title in (("oiou", "oIoU"), ("miou", "mIoU")):
            worst = float(np.max(errors[name], initial=0.0)) if errors[name] else SHAPES_DIFFER
            yield Check(part, f"{title}, empty: {policy}", worst, METRICS, note)


def _ours(rows: Sequence[tuple[Scored, Counts]], empty_areas: Sequence[int], policy: Empty) -> dict[str, Any]:
    sizes = [len(c.union) for _, c in rows] + [0] * len(empty_areas)
    chosen = [s.chosen for s, _ in rows] + [-1] * len(empty_areas)
    outcome = outcome_of_choice(
        np.array(chosen),
        np.cumsum([0, *sizes]),
        np.concatenate([c.intersection for _, c in rows]),
        np.concatenate([c.union for _, c in rows]),
        np.array([c.area for _, c in rows] + list(empty_areas)),
    )
    return summarise(outcome, policy)


def _release(results: Sequence[Item], empty_areas: Sequence[int]) -> dict[str, float]:
    total = sum(r["U"] for r in results) + sum(empty_areas)
    # Not the file's own ``iou``: it is float32, coarser than the tolerance.
    ious = [r["I"] / r["U"] if r["U"] else 0.0 for r in results] + [0.0] * len(empty_areas)
    return {"oiou": 100 * sum(r["I"] for r in results) / total if total else 0.0, "miou": 100 * sum(ious) / len(ious)}
