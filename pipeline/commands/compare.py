"""Two rules, two encoders or two runs on the same expressions (``scored_runs``): ``glimpse compare A B``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as Printed

from pipeline.commands.scored_runs import Matched, Run, Side
from pipeline.commands.show import scene_of
from pipeline.commands.tables import VALUES, narrow_table, print_table
from pipeline.project import LoadedProject, profile_line
from stages.page.comparison import signed
from stages.page.overlay import encoded, overlay
from stages.page.tables import percent, probability
from stages.scoring.comparison import (
    COMPARED,
    TOO_FEW,
    Both,
    breakdown,
    by_length,
    by_size,
    by_value,
    by_words,
    compared,
    flips,
)
from stages.scoring.metrics import Empty
from store.fingerprint import canonical
from store.publish import write_file

Json = dict[str, Any]
_SHOWN = 12
"""Classes of a breakdown that the terminal shows; JSON has all."""


def comparison(a: Side, b: Side, both: Matched, resamples: int, seed: int) -> list[Json]:
    """For each split what ``stages.scoring.comparison.compared`` says, flips as expression ids, and the breakdowns.

    Splits without an expression in common are left out. How expressions without a choice count is A's ``score.empty``.
    """
    pairs, index, parse, empty = a.run.pairs, a.run.index, a.run.parse, _empty(a.run)
    whole = Both(a.outcome().at(both.a), b.outcome().at(both.b), pairs["expression_image"][both.a])
    areas = pairs["expression_area"][both.a] != b.run.pairs["expression_area"][both.b]
    height, width = index["image_size"][pairs["expression_image"]].astype(np.float64).T
    share = pairs["expression_area"] / np.maximum(height * width, 1)
    ref = index["expression_ref"]
    place = [(str(dataset), str(split)) for dataset, split in pairs.attrs["groups"]]
    found = []
    for group in both.groups:
        inside = np.flatnonzero(pairs["expression_group"][both.a] == place.index(group))
        if empty == "skip":
            inside = inside[(whole.a.decided & whole.b.decided)[inside]]
        if not len(inside):
            continue
        these, rows = whole.at(inside), both.a[inside]
        classes = {
            "category": by_value([index["ref_category"][ref[row]] for row in rows]),
            "size": by_size(share[rows]),
            "length": by_length([parse["sentence"][row] for row in rows]),
            "position words": by_words([parse["position_words"][row] for row in rows]),
            "relation words": by_words([parse["relation_words"][row] for row in rows]),
        }
        gained, lost = flips(these)
        found.append(
            {
                "dataset": group[0],
                "split": group[1],
                **compared(these, resamples, seed),
                "only_a": both.only[group][0],
                "only_b": both.only[group][1],
                "other_ground_truth": int(areas[inside].sum()),
                "flips": {
                    "gained": index["expression_id"][rows[gained]].tolist(),
                    "lost": index["expression_id"][rows[lost]].tolist(),
                },
                "breakdowns": {
                    what: breakdown(these, members, resamples, seed) for what, members in classes.items() if members
                },
            }
        )
    return found


def _empty(run: Run) -> Empty:
    """How the run's metrics count expressions without a choice."""
    return "skip" if run.scores.attrs["config"].get("empty") == "skip" else "count"


def as_json(a: Side, b: Side, splits: list[Json], resamples: int, seed: int) -> str:
    """The whole comparison as one line of JSON."""
    return canonical({"a": a.label, "b": b.label, "resamples": resamples, "seed": seed, "splits": splits})


def print_comparison(a: Side, b: Side, splits: list[Json]) -> None:
    """The metrics of each split, then its breakdowns; percent, differences in points."""
    print(f"A: {a.label}\nB: {b.label}")
    print("percent; A - B in points, with the 95 % interval and the two-sided p\nof a paired bootstrap over images")
    table = narrow_table()
    for name in ("data set", "split", "measure", "A", "B", "A - B", "95 % interval", "p", "n"):
        table.add_column(name, justify="left" if name in ("data set", "split", "measure") else "right")
    for line in splits:
        for name in COMPARED:
            first, cell = name == COMPARED[0], line[name]
            table.add_row(
                line["dataset"] if first else "",
                line["split"] if first else "",
                VALUES[name],
                percent(cell["a"]),
                percent(cell["b"]),
                *_difference(cell),
                str(line["n"]),
                end_section=name == COMPARED[-1],
            )
    print_table(table)
    for line in splits:
        gained, lost = (len(line["flips"][kind]) for kind in ("gained", "lost"))
        print(f"{line['dataset']} {line['split']}: only A above IoU 0.5: {gained}, only B: {lost}{_left_out(line)}")
        if line["images"] == 1:
            print(f"{line['dataset']} {line['split']}: {TOO_FEW}")
    for line in splits:
        print_table(_breakdowns(line))


def _left_out(line: Json) -> str:
    """What of a split is compared only in part."""
    said = [f"{line[f'only_{side}']} expressions of {side.upper()} alone" for side in "ab" if line[f"only_{side}"]]
    if line["other_ground_truth"]:
        said.append(f"{line['other_ground_truth']} have ground truths of different area")
    return f" ({'; '.join(said)})" if said else ""


def _breakdowns(line: Json) -> Printed:
    table = narrow_table()
    table.title = f"{line['dataset']} {line['split']}: mIoU"
    for name in ("by", "class", "A", "B", "A - B", "95 % interval", "p", "n"):
        table.add_column(name, justify="left" if name in ("by", "class") else "right")
    for what, lines in line["breakdowns"].items():
        shown = lines[:_SHOWN]
        for cell in shown:
            table.add_row(
                what if cell is shown[0] else "",
                str(cell["value"]),
                percent(cell["a"]),
                percent(cell["b"]),
                *_difference(cell),
                str(cell["n"]),
            )
        if len(lines) > _SHOWN:
            table.add_row("", f"{len(lines) - _SHOWN} more: --json")
        table.add_section()
    return table


def _difference(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    """The difference in points, its interval and p."""
    points = None if cell["difference"] is None else 100 * cell["difference"]
    if "ci" not in cell:
        return signed(points), "–", "–"
    low, high = (signed(100 * end) for end in cell["ci"])
    return signed(points), f"{low} to {high}", probability(cell["p"]).removeprefix("p ")


def write_pictures(project: LoadedProject, a: Side, b: Side, splits: list[Json], folder: Path, most: int) -> list[Path]:
    """Overlays of the first ``most`` flips of each kind and split: A's choice as the chosen one, B's as the other rule's.

    Returns:
        The files: ``<data set>_<split>_<only_a or only_b>_<expression id>.png``.
    """
    written = []
    index, proposals = a.run.pictured
    outcomes = a.outcome(), b.outcome()
    for line in splits:
        for kind, name in (("gained", "only_a"), ("lost", "only_b")):
            for number in line["flips"][kind][:most]:
                key = (line["dataset"], line["split"], number)
                rows = a.run.places[key], b.run.places[key]
                scene = scene_of(_images(project, a.run), index, proposals, rows[0])
                rival = scene.masks
                if b.run is not a.run:
                    rival = scene_of(_images(project, b.run), *b.run.pictured, rows[1]).masks
                choice, other = int(a.chosen[rows[0]]), int(b.chosen[rows[1]])
                ious = (outcome.iou[row] for outcome, row in zip(outcomes, rows, strict=True))
                said = [f"{side.label} {percent(iou)}" for side, iou in zip((a, b), ious, strict=True)]
                drawn = overlay(
                    scene.picture,
                    choice=scene.masks[choice] if choice >= 0 else None,
                    truth=scene.truth,
                    rival=rival[other] if other >= 0 else None,
                    proposals=np.delete(scene.masks, choice, axis=0) if choice >= 0 else scene.masks,
                    caption=[index["expression_raw"][rows[0]], f"IoU in percent: chosen {said[0]}, other {said[1]}"],
                    width=max(640, scene.picture.width),
                )
                out = folder / f"{line['dataset']}_{line['split']}_{name}_{number}.png"
                folder.mkdir(parents=True, exist_ok=True)
                write_file(out, encoded(drawn, out.suffix))
                written.append(out)
    return written


def _images(project: LoadedProject, run: Run) -> Path:
    """The image folder of a run; of one that is given by its scores, the profile's."""
    own = run.project or project
    return own.path(own.values.images)


def other_runs(a: Side, b: Side) -> list[str]:
    """A line for each run that is not the profile's own: its profile, and why its numbers are stale if they are."""
    from pipeline.freshness import stale_line

    lines = []
    for name, side in (("A", a), ("B", b)):
        if (project := side.run.project) is not None and side.run.name:
            lines.append(f"{name}: {profile_line(project)}")
            if said := stale_line(project, "score"):
                lines.append(f"{name}: {said}")
    return lines
