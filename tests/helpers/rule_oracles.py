"""The rules of other phrases, places, relations and ordinals as loops over one expression's vectors: slow and plain."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from stages.scoring.score_rule import ScoreRule
from stages.text.words import KINDS, POSITIONS
from tests.helpers.oracles import dot, mix, plain_scores, unit
from tests.helpers.stores import GROUPS, Synthetic

ALPHA = 0.6


BETA = 0.5


K = 3


SIDES = tuple(POSITIONS)


class Plain:
    """One expression, in lists."""

    def __init__(self, made: Synthetic, expression: int, rule: ScoreRule) -> None:
        self.made, self.rule, self.expression = made, rule, expression
        self.rows = list(made.rows_of(expression))
        self.spatial = made.spatial[expression]
        self.phrases = [made.text[row] for row in made.phrases[expression]]
        self.masks = made.proposals[made.image_of(expression)]
        self.boxes = [made.boxes[row].tolist() for row in self.rows]

    def base(self, alpha: float = ALPHA) -> list[float]:
        return plain_scores(self.made, self.expression, alpha, BETA, self.rule, K)

    def features(self, view: str) -> list[Any]:
        if view == "local":
            return [unit(self.made.f_local[row]) for row in self.rows]
        mixed = [mix(self.made.f_global[K][row], self.made.f_local[row], ALPHA) for row in self.rows]
        return mixed if self.rule == "unnormalised" else [unit(f) for f in mixed]

    def against(self, text: Any, view: str) -> list[float]:
        return [100 * dot(f, unit(text)) for f in self.features(view)]


def soft(values: list[float]) -> list[float]:
    top = max(values, default=0)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def plain_weighted(e: Plain, weights: dict[str, float] | None = None, cosine: bool = True) -> list[float]:
    cells = ("global.k3*sentence", "global.k3*phrase", "local*sentence", "local*phrase")
    weights = weights or dict.fromkeys(cells, 0.25)
    vectors = {"local": e.made.f_local, "global.k1": e.made.f_global[1], "global.k3": e.made.f_global[3]}
    result = [0.0] * len(e.rows)
    for cell, weight in weights.items():
        view, text = cell.split("*")
        t = e.made.text[e.made.strings[e.expression][text == "phrase"]]
        for i, row in enumerate(e.rows):
            v = vectors[view][row]
            result[i] += weight * 100 * dot(unit(v) if cosine else v, unit(t))
    return result


def plain_subtraction(e: Plain, weight: float = 1, bank: str = "own", view: str = "mixed") -> list[float]:
    made = e.made
    group = made.ref_group[made.ref[e.expression]] if bank == "own" else ["/".join(g) for g in GROUPS].index(bank)
    own = {s for (s, _), ref in zip(made.strings, made.ref, strict=True) if made.ref_group[ref] == group}
    mean = np.mean([unit(made.text[s]) for s in own], 0)
    return [s - weight * 100 * dot(f, mean) for s, f in zip(e.base(), e.features(view), strict=True)]


def plain_negative(e: Plain, view: str = "local") -> list[float]:
    if not e.phrases:
        return e.base()
    answers = [e.against(q, view) for q in e.phrases]
    return [s - 0.7 * sum(own) / len(own) for s, *own in zip(e.base(), *answers, strict=True)]


def plain_position(e: Plain) -> list[float]:
    result = e.base()
    for i, mask in enumerate(e.masks):
        inside = np.argwhere(mask).tolist()
        height, width = mask.shape
        for name, named in zip(SIDES, e.spatial.position, strict=True):
            if named:
                if name == "middle":
                    half = width // 2
                    up, down = range(half), range(width - half)
                    wave = [x / (half - 1) for x in up] + [1 - x / (width - half - 1) for x in down]
                    values = [wave[x] for _, x in inside]
                else:
                    values = [y / (height - 1) if name in ("top", "bottom") else x / (width - 1) for y, x in inside]
                    values = [1 - v if name in ("left", "top") else v for v in values]
                result[i] += math.log(max(sum(values) / len(values), 1e-3)) if values else math.log(0.5)
    return result


def centroids(e: Plain) -> list[tuple[float, float]]:
    found = []
    for mask in e.masks:
        y, x = np.nonzero(mask)
        height, width = mask.shape
        found.append(((x.mean() + 0.5) / width, (y.mean() + 0.5) / height) if len(x) else (0.5, 0.5))
    return found


def pushed(values: list[float], kept: list[int]) -> list[float]:
    span = max(values) - min(values) + 1
    return [v if i in kept else v - span for i, v in enumerate(values)]


def plain_rectifier(e: Plain) -> list[float]:
    base, kept = e.base(), list(range(len(e.rows)))
    if any(s == -1 and o >= 0 for s, _, o, _ in e.spatial.relations) or not kept:
        return base
    for name, named in zip(SIDES, e.spatial.position, strict=True):
        if named and name != "middle":
            axis = int(name in ("top", "bottom"))
            values = sorted(np.float32(c[axis]) for c in centroids(e))
            half = len(values) // 2
            median = values[half] if len(values) % 2 else (values[half - 1] + values[half]) / np.float32(2)
            small = name in ("left", "top")
            kept = [
                i for i in kept
                if (np.float32(centroids(e)[i][axis]) <= median if small else np.float32(centroids(e)[i][axis]) >= median)
            ]  # fmt: skip
    return pushed(base, kept) if kept else base


def box_iou(a: list[float], b: list[float]) -> float:
    def size(c: list[float]) -> float:
        return max(c[2] - c[0], 0) * max(c[3] - c[1], 0)

    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return common / max(size(a) + size(b) - common, 1e-9)


def plain_ordinal(e: Plain, base: str = "global_local", margin: float = 3.0, overlap: float = 0.5) -> list[float]:
    scores = e.base() if base == "global_local" else e.base(0.0)
    n, direction = e.spatial.ordinal
    if not n or not scores:
        return scores
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if scores[i] >= max(scores) - margin and all(box_iou(e.boxes[i], e.boxes[j]) < overlap for j in kept):
            kept.append(i)
    if len(kept) < n:
        return scores
    name = SIDES[direction]
    axis, sign = int(name in ("top", "bottom")), 1 if name in ("left", "top") else -1
    along = sorted(kept, key=lambda i: sign * np.float32(centroids(e)[i][axis]))
    return pushed(scores, [along[n - 1]])


def related(kind: str, a: list[float], b: list[float]) -> float:
    if kind == "within":
        size = max(a[2] - a[0], 0) * max(a[3] - a[1], 0)
        common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        return common / size if size else 0.0
    area = [max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b)]
    return float(
        {
            "left": a[0] + a[2] < b[0] + b[2],
            "right": a[0] + a[2] > b[0] + b[2],
            "above": a[1] + a[3] < b[1] + b[3],
            "below": a[1] + a[3] > b[1] + b[3],
            "bigger": area[0] > area[1],
            "smaller": area[0] < area[1],
        }[kind]
    )


def plain_reclip(e: Plain, view: str = "mixed") -> list[float]:
    n, base = len(e.rows), e.base()
    top = max(base, default=0)
    log_p0 = [s - top - math.log(math.fsum(math.exp(t - top) for t in base)) for s in base]
    if not e.spatial.relations:
        return log_p0

    def norm(p: list[float], factor: list[float]) -> list[float]:
        product = [a * b for a, b in zip(p, factor, strict=True)]
        return [x / sum(product) for x in product] if sum(product) > 0 else p

    def entity(own: int, above: set[int]) -> list[float]:
        text = e.made.text[e.made.strings[e.expression][1]] if own < 0 else e.phrases[own]
        p = soft(e.against(text, view))
        for subject, code, anchor, second in e.spatial.relations:
            kind = KINDS[code]
            if subject != own or anchor in {own, *above} or (second >= 0 and second in {own, *above}):
                continue
            if anchor < 0:
                if kind not in ("between", "within"):
                    p = norm(p, [sum(p[j] * related(kind, e.boxes[i], e.boxes[j]) for j in range(n)) for i in range(n)])
                continue
            q = entity(anchor, {own, *above})
            if kind != "between":
                others = [
                    sum(q[j] * related(kind, e.boxes[i], e.boxes[j]) for j in range(n) if j != i) for i in range(n)
                ]
                p = norm(p, others)
                continue
            r = q if second < 0 else entity(second, {own, *above})
            shares = [0.0] * n
            for i, j, k in itertools.permutations(range(n), 3):
                a, b = e.boxes[j], e.boxes[k]
                hull = [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]
                shares[i] += q[j] * r[k] * related("within", e.boxes[i], hull)
            p = norm(p, shares)
        return p

    return [a + math.log(max(b, 1e-30)) for a, b in zip(log_p0, entity(-1, set()), strict=True)]


def plain_hybrid(e: Plain) -> list[float]:
    if not e.rows:
        return []
    s = soft(e.base())
    order = sorted(range(len(s)), key=lambda i: -s[i])
    q, top = s, order[:3]
    anchors = top
    if e.phrases:
        q = soft(e.against(np.sum(e.phrases, 0, dtype=np.float64), "mixed"))
        anchors = sorted(range(len(q)), key=lambda i: -q[i])[:6]
    code = e.spatial.hybrid[0]
    rho = [
        sum(s[i] * (q[j] * related(KINDS[code], e.boxes[i], e.boxes[j]) if code >= 0 else 1) for j in anchors)
        for i in top
    ]
    result = [p - 1 for p in s]
    for i, r in zip(top, soft(rho), strict=True):
        result[i] = r
    return result


HEAT = ("gem", "gem.inside_minus_outside")


def plain_coherence(e: Plain) -> list[float]:
    """Masks of the image without a mean of the map get the least C."""
    used = list(range(len(e.rows)))
    result = [-math.inf] * len(e.rows)
    if not used:
        return result
    t = unit(e.made.text[e.made.strings[e.expression][1]])
    gem, minus = ([dot(e.made.others[view][row], t) for row in e.rows] for view in HEAT)
    outside = [a - b for a, b in zip(gem, minus, strict=True)]
    whole = [bool(mask.all()) for mask in e.masks]
    known = [i for i in used if not whole[i] and all(e.made.others[view][e.rows[i]].any() for view in HEAT)]
    low = min([gem[i] for i in known] + [outside[i] for i in known], default=0)
    relation, place = e.spatial.hybrid
    b = {"bigger": 1.95, "smaller": 1.5}.get(KINDS[relation] if relation >= 0 else "", 1.8)
    height, width = e.masks[0].shape
    half = width // 2
    wave = {
        "left": [1 - x / (width - 1) for x in range(width)],
        "right": [x / (width - 1) for x in range(width)],
        "middle": [x / (half - 1) for x in range(half)] + [1 - x / (width - half - 1) for x in range(width - half)],
    }.get(SIDES[place] if place >= 0 else "", [1.0] * width)
    prior = np.tile(wave, (height, 1))
    c: dict[int, float] = {}
    for i in known:
        mask = e.masks[i]
        p, q, share = prior[mask].mean(), prior[~mask].mean(), mask.mean()
        mean = share * gem[i] + (1 - share) * outside[i]
        c[i] = ((2 - b) * p * (gem[i] - low) - b * q * (outside[i] - low)) / (prior.mean() * (mean - low))
    base = e.base()
    s = dict(zip(used, soft([base[i] for i in used]), strict=True))
    top = sorted(used, key=lambda i: -s[i])[:3]
    q_of, anchors = s, top
    if e.phrases:
        against = e.against(np.sum(e.phrases, 0, dtype=np.float64), "mixed")
        q_of = dict(zip(used, soft([against[i] for i in used]), strict=True))
        anchors = sorted(used, key=lambda i: -q_of[i])[:6]
    rho = [
        sum(
            s[i] * (q_of[j] * related(KINDS[relation], e.boxes[i], e.boxes[j]) if relation >= 0 else 1) for j in anchors
        )
        for i in top
    ]
    final = {i: 0.6 * c.get(i, min(c.values(), default=0)) + 0.4 * r for i, r in zip(top, soft(rho), strict=True)}
    for i in used:
        result[i] = final[i] if i in final else s[i] - 1 + min(final.values()) - 1
    return result
