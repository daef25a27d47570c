"""The method in plain loops, written from reference.md sec. 3 and 4, and the pair table that stages are held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages import pair as pair_stage
from stages.contract import Context
from stages.scoring.score_rule import ScoreRule
from stages.scoring.table import Filters
from store.document import write_document
from store.table import read_table
from tests.helpers.stores import Synthetic, synthetic

RULES: tuple[ScoreRule, ...] = ("cosine", "unnormalised")

Vector = Sequence[float] | NDArray[Any]


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(float(a) * float(b) for a, b in zip(x, y, strict=True))


def unit(x: Vector) -> list[float]:
    return [float(a) / math.sqrt(dot(x, x)) for a in x]


def mix(x: Vector, y: Vector, share: float) -> list[float]:
    return [share * float(a) + (1 - share) * float(b) for a, b in zip(x, y, strict=True)]


def plain_score(f_g: Vector, f_l: Vector, t_g: Vector, t_l: Vector, v: float, r: float, rule: ScoreRule) -> float:
    """reference.md sec. 2 and 3: f = v f_G + (1 - v) f_L, t = r t_G + (1 - r) t_L, all raw; 100 cos(f, t). RN50: text
    vectors normalised before they are mixed, and 100 f.t."""
    f = mix(f_g, f_l, v)
    if rule == "unnormalised":
        return 100 * dot(f, mix(unit(t_g), unit(t_l), r))
    t = mix(t_g, t_l, r)
    return 100 * dot(f, t) / math.sqrt(dot(f, f) * dot(t, t))


def plain_scores(made: Synthetic, expression: int, v: float, r: float, rule: ScoreRule, k: int) -> list[float]:
    """Of all proposals of the expression's image, from the vectors."""
    sentence, phrase = (made.text[row] for row in made.strings[expression])
    return [
        plain_score(made.f_global[k][row], made.f_local[row], sentence, phrase, v, r, rule)
        for row in made.rows_of(expression)
    ]


def plain_best(values: Sequence[float]) -> int:
    best = -1
    for position, value in enumerate(values):
        if best < 0 or value > values[best]:
            best = position
    return best


def overlap_of(made: Synthetic, expression: int, position: int) -> tuple[int, int]:
    """Intersection and union of the chosen proposal with the ground truth; without a choice 0 and the truth's area."""
    truth = made.truth[made.ref[expression]]
    assert truth is not None
    if position < 0:
        return 0, int(truth.sum())
    mask = made.proposals[made.image_of(expression)][position]
    return int((mask & truth).sum()), int((mask | truth).sum())


def plain_metrics(made: Synthetic, chosen: dict[int, int], empty: str) -> dict[str, Any]:
    """oIoU, mIoU and n of expression -> chosen position."""
    kept = [overlap_of(made, e, p) for e, p in chosen.items() if p >= 0 or empty == "count"]
    if not kept:
        return {"oiou": None, "miou": None, "n": 0}
    ious = [i / u if u else 0.0 for i, u in kept]
    return {"oiou": sum(i for i, _ in kept) / sum(u for _, u in kept), "miou": sum(ious) / len(ious), "n": len(kept)}


def evaluated(made: Synthetic, group: int) -> list[int]:
    return [e for e, ref in enumerate(made.ref) if made.ref_group[ref] == group and made.truth[ref] is not None]


def kept_positions(made: Synthetic, expression: int, filters: Filters) -> list[int]:
    masks = made.proposals[made.image_of(expression)]
    return [
        position
        for position, row in enumerate(made.rows_of(expression))
        if made.scores[row] >= np.float32(filters.min_score)
        and masks[position].sum() >= filters.min_area
        and (not filters.top_n or position < filters.top_n)
    ]


def context(folder: Path) -> Context:
    return Context(work=folder / "work")


def fields(made: Synthetic, stage: Any, **more: Path) -> Any:
    if "metrics" in more and "summary" in stage.Paths.model_fields:
        more = {"summary": more["metrics"].with_name("summary.json"), **more}
    return stage.Paths(**{n: p for n, p in made.paths.items() if n in stage.Paths.model_fields}, **more)


def make_pairs(made: Synthetic) -> Path:
    pair_stage.run(pair_stage.Params(), fields(made, pair_stage), context(made.paths["pairs"].parent))
    return made.paths["pairs"]


def no_differences(made: Synthetic) -> Path:
    """What stage variants leaves where no switch is turned."""
    folder = made.paths["pairs"].parent / "variants"
    folder.mkdir(exist_ok=True)
    content = {
        "pairs": read_table(made.paths["pairs"], "pairs", ()).digest,
        "switches": [],
        "templates": [],
        "sources": [],
    }
    write_document(folder / "variants.json", content, "variants")
    return folder


def plain_point(
    made: Synthetic, group: int, alpha: float, beta: float, rule: ScoreRule, filters: Filters, k: int = 3
) -> dict[str, Any]:
    """Metrics of a group where each expression gets its best-scored proposal that the filters keep, under ``count``."""
    chosen = {}
    for e in evaluated(made, group):
        positions, values = kept_positions(made, e, filters), plain_scores(made, e, alpha, beta, rule, k)
        best = plain_best([values[p] for p in positions])
        chosen[e] = positions[best] if best >= 0 else -1
    return plain_metrics(made, chosen, "count")


def store_with_pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A store with its pair table; the parameter is the score rule."""
    result = synthetic(tmp_path_factory.mktemp("store"), score_rule=request.param)
    make_pairs(result)
    return result


def rule_of(made: Synthetic) -> ScoreRule:
    found: ScoreRule = read_table(made.paths["pairs"], "pairs", ()).attrs["score_rule"]
    return found
