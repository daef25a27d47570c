"""Changes one after another against a run from scratch: what is kept and reused gives the same bytes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.registry import STAGES
from tests.faults.bench import Bench, Tally
from tests.helpers.store_files import files_of

_SPLITS = {
    "refshapes": ["val", "testA", "testB"],
    "refshapes+": ["val", "testA", "testB"],
    "refshapesg": ["val", "test"],
}
"""Each split of these data sets has an image of its own, so a split more or less is an image more or less."""
Change = dict[str, dict[str, Any]]


def changed(change: Change, rng: random.Random) -> tuple[str, Change]:
    """One thing more that differs from the bench's profile, or differs otherwise; what it is, and all changes."""
    which = rng.randrange(6)
    said, section, values = [
        ("images", "index", lambda: {"datasets": _datasets(rng)}),
        ("k", "embed_masks", lambda: {"masked_blocks": sorted({3, rng.choice((1, 2))})}),
        ("fill", "embed_masks", lambda: {"fill": rng.choice(("mean", "reference"))}),
        ("template", "embed_text", lambda: {"template": rng.choice(("a photo of {}", "{}", "the {} there"))}),
        ("alpha", "score", lambda: {"alpha": rng.choice((0.2, 0.5, 0.9)), "min_area": rng.choice((0, 100))}),
        ("rules", "rules", lambda: {"enabled": ["global_local", *rng.sample(("global", "cropping", "clip_es"), 2)]}),
    ][which]
    new = values()
    return f"{said} {new}", {**change, section: change.get(section, {}) | new}


def _datasets(rng: random.Random) -> dict[str, Any]:
    names = rng.sample(sorted(_SPLITS), rng.randint(1, 3))
    return {
        name: {
            "folder": name,
            "split_by": "synth",
            "splits": rng.sample(_SPLITS[name], rng.randint(1, len(_SPLITS[name]))),
        }
        for name in sorted(names)
    }


def sequences(
    bench: Bench, total: int, length: int, rng: random.Random, stages: Sequence[str] = tuple(STAGES)
) -> list[Tally]:
    """``total`` sequences of ``length`` changes; after each the stages run in place, and once more from nothing."""
    tally = Tally("a change in place against a run from scratch")
    for _ in range(total):
        bench.restore()
        change: Change = {}
        for _ in range(length):
            said, change = changed(change, rng)
            with bench.changed(change):
                problems = _run_all(bench, stages)
                in_place = bench.folder / "in place"
                bench.live.rename(in_place)
                bench.live.mkdir()
                problems += _run_all(bench, stages)
            problems += _differences(bench, in_place, stages)
            shutil.rmtree(bench.live)
            in_place.rename(bench.live)
            tally.add(problems, said, "harmless")
    bench.restore()
    return [tally]


def _run_all(bench: Bench, stages: Sequence[str]) -> list[str]:
    ended = {stage: bench.run(stage) for stage in stages}
    return [f"{n}: {r} {said[-200:]}" for n, (status, r, said) in ended.items() if status or r[0]]


def _differences(bench: Bench, in_place: Path, stages: Sequence[str]) -> list[str]:
    """Outputs of the run in ``in_place`` that are not those in the live folder."""
    wrong = []
    for new in (path for stage in stages for path in bench.outputs(stage).values()):
        old = in_place / new.relative_to(bench.live)
        if new.name == "report.html":  # it says how long stages took
            wrong += [] if old.exists() and new.exists() else ["there is no page"]
        elif not (old.exists() and new.exists() and _content(old) == _content(new)):
            wrong.append(f"{new.relative_to(bench.live)} differs")
    return wrong


def _content(path: Path) -> bytes | dict[str, bytes]:
    return files_of(path) if path.is_dir() else path.read_bytes()
