"""The rules of other phrases, places, relations and ordinals against loops over the vectors of the synthetic store."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages import score as score_stage
from stages.scoring.boxes import box_relation
from stages.scoring.rules.relation import hybrid_relation
from stages.scoring.score_rule import ScoreRule
from stages.scoring.table import PairTable, load_pairs
from stages.text.words import KINDS, POSITIONS
from store.errors import ParameterError
from store.ragged import offsets_of
from store.schema import PAIRS
from store.table import read_table, write_table
from tests.helpers.oracles import dot, make_pairs, mix, plain_scores, unit
from tests.helpers.stores import GROUPS, Synthetic, synthetic

ALPHA, BETA, K = 0.6, 0.5, 3
SIDES = tuple(POSITIONS)
GOLDEN = Path(__file__).parents[1] / "golden"
NEW = ("weighted", "subtraction", "negative", "position", "rectifier", "ordinal", "relation")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((rule, {}) for rule in NEW),
    ("relation", {"method": "hybrid"}),
    ("relation", {"view": "local"}),
    ("negative", {"view": "mixed"}),
    ("subtraction", {"view": "local", "bank": "toy/val", "weight": 0.3}),
    ("weighted", {"weights": {"local*phrase": 1.0, "global.k1*sentence": -0.4}, "cosine": False}),
    ("ordinal", {"margin": 1000.0, "overlap": 1.0}),
    ("ordinal", {"base": "cropping", "margin": 40.0, "overlap": 0.2}),
]


@pytest.fixture(scope="module", params=["cosine", "unnormalised"])
def rule_of(request: pytest.FixtureRequest) -> ScoreRule:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, rule_of: ScoreRule) -> Synthetic:
    result = synthetic(tmp_path_factory.mktemp("store"), seed=3, counts=(5, 0, 12, 1, 9, 2), score_rule=rule_of)
    make_pairs(result)
    return result


@pytest.fixture(scope="module")
def pairs(made: Synthetic) -> PairTable:
    return load_pairs(made.paths["pairs"], K)[0]


def scored(pairs: PairTable, rule: str, settings: dict[str, Any]) -> NDArray[np.float32]:
    params = score_stage.Params(enabled=[rule], settings={rule: settings}, alpha=ALPHA, beta=BETA, k=K)
    return score_stage.rule_scores(pairs, params)[rule]


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


PLAIN: dict[str, Any] = {
    "weighted": plain_weighted,
    "subtraction": plain_subtraction,
    "negative": plain_negative,
    "position": plain_position,
    "rectifier": plain_rectifier,
    "ordinal": plain_ordinal,
}


@pytest.mark.parametrize(("rule", "settings"), VARIANTS, ids=str)
def test_scores_are_loops(
    made: Synthetic, pairs: PairTable, rule_of: ScoreRule, rule: str, settings: dict[str, Any]
) -> None:
    got = scored(pairs, rule, settings)
    assert got.dtype == np.float32
    expected: list[float] = []
    for expression in range(len(made.ref)):
        e = Plain(made, expression, rule_of)
        if rule == "relation":
            expected += plain_hybrid(e) if settings.get("method") == "hybrid" else plain_reclip(e, **settings)
        else:
            expected += PLAIN[rule](e, **settings)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-3 if rule_of == "cosine" else 2e-2)
    assert rule in ("weighted", "subtraction") or np.abs(got - scored(pairs, "global_local", {})).max() > 0.01


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


def test_coherence_is_a_loop(tmp_path: Path) -> None:
    made = synthetic(tmp_path, seed=4, counts=(5, 0, 12, 1, 9, 2), others=HEAT)
    table = load_pairs(make_pairs(made), K)[0]
    got = scored(table, "coherence", {})
    for expression in range(len(made.ref)):
        own = got[table.offsets[expression] : table.offsets[expression + 1]]
        expected = plain_coherence(Plain(made, expression, "cosine"))
        assert np.isneginf(own).tolist() == np.isneginf(expected).tolist()
        mild = np.abs(np.nan_to_num(expected, neginf=0)) < 50  # where the mean is the least value, C has no bound
        np.testing.assert_allclose(own[mild], np.array(expected)[mild], rtol=2e-3, atol=2e-3)
    other = rearranged(made, tmp_path / "other.h5", list(range(len(made.ref)))[::-1], True)
    again = scored(other, "coherence", {})
    for place, e in enumerate(reversed(range(len(made.ref)))):
        own = got[table.offsets[e] : table.offsets[e + 1]]
        np.testing.assert_allclose(again[other.offsets[place] : other.offsets[place + 1]][::-1], own, rtol=1e-4)


def test_coherence_needs_both_poolings(pairs: PairTable) -> None:
    with pytest.raises(ParameterError, match=r"rule coherence: needs view 'gem'.*add gem to embed_masks\.views"):
        scored(pairs, "coherence", {})


def rearranged(made: Synthetic, path: Path, expressions: list[int], backwards: bool) -> PairTable:
    """A pair table with these expressions alone, each with an image of its own, its proposals in order or backwards."""
    table = read_table(made.paths["pairs"], "pairs")
    offsets, phrases, relations = (table[name] for name in ("expression_offsets", "other_offsets", "relation_offsets"))
    step = -1 if backwards else 1
    pair = [np.arange(offsets[e], offsets[e + 1])[::step] for e in expressions]
    products = offsets_of(np.repeat(np.diff(offsets), np.diff(phrases)))
    counted = [x for e in expressions for x in range(phrases[e], phrases[e + 1])]
    rows: dict[str, Any] = {
        "E": np.array(expressions),
        "P": np.concatenate(pair),
        "N": table["proposal"][np.concatenate(pair)],
        "Q": np.concatenate([np.arange(relations[e], relations[e + 1]) for e in expressions]),
        "X": np.array(counted, np.int64),
        "Y": np.concatenate(
            [np.arange(products[x], products[x + 1])[::step] for x in counted] or [np.zeros(0, np.int64)]
        ),
    }
    columns = {}
    for name, values in table.columns.items():
        described = PAIRS.column(name)
        assert described is not None
        dims = described.dims[0]
        if dims == "E+1":
            columns[name] = offsets_of(np.diff(values)[rows["E"]])
        elif described.dtype == "utf8":
            columns[name] = [values[row] for row in rows[dims]]
        else:
            columns[name] = values[rows[dims]]
    columns["proposal"] = np.arange(len(rows["P"]))
    attrs = {name: table.attrs[name] for name in ("groups", "score_rule")}
    write_table(path, "pairs", columns, {}, {}, **attrs)
    return load_pairs(path, K)[0]


@pytest.mark.parametrize("backwards", [False, True])
def test_order_of_images_and_proposals_does_not_matter(
    made: Synthetic, pairs: PairTable, tmp_path: Path, backwards: bool
) -> None:
    """Nor what other images there are: in the release the smallest image so far cut the candidates of all later ones."""
    small = [e for e in range(len(made.ref)) if len(made.rows_of(e)) < 3]
    others = [e for e in range(len(made.ref)) if e not in small]
    order = [*small, *reversed(others[3:])]
    other = rearranged(made, tmp_path / "pairs.h5", order, backwards)
    for rule, settings in VARIANTS:
        whole, part = scored(pairs, rule, settings), scored(other, rule, settings)
        for place, e in enumerate(order):
            own = part[other.offsets[place] : other.offsets[place + 1]]
            before = whole[pairs.offsets[e] : pairs.offsets[e + 1]]
            np.testing.assert_allclose(own[::-1] if backwards else own, before, rtol=1e-5, atol=1e-5, err_msg=rule)


@pytest.mark.parametrize("counts", [(0,), (1,), (1, 0, 1), (0, 2)])
def test_one_mask_and_none(tmp_path: Path, counts: tuple[int, ...]) -> None:
    made = synthetic(tmp_path, counts=counts, seed=5)
    table = load_pairs(make_pairs(made), K)[0]
    for rule, settings in VARIANTS:
        params = score_stage.Params(enabled=[rule], settings={rule: settings})
        scores = score_stage.rule_scores(table, params)
        assert np.isfinite(scores[rule]).all()
        chosen = score_stage.choose(table, scores, params)[rule]
        assert (chosen < 0).tolist() == [not made.rows_of(e) for e in range(len(made.ref))]


def test_rejected_masks_are_chosen_where_nothing_else_is_left(made: Synthetic, pairs: PairTable) -> None:
    """A filter is applied after the rule."""
    for rule, settings in VARIANTS:
        params = score_stage.Params(enabled=[rule], settings={rule: settings}, top_n=1)
        chosen = score_stage.choose(pairs, score_stage.rule_scores(pairs, params), params)[rule]
        assert chosen.tolist() == [0 if made.rows_of(e) else -1 for e in range(len(made.ref))], rule


def golden_rows() -> list[tuple[dict[str, Any], NDArray[np.float64]]]:
    golden = json.loads((GOLDEN / "relations.json").read_text("utf-8"))
    boxes = np.load(GOLDEN / "hybrid_astronaut.npz")["boxes_xywh"].astype(np.float64)
    own = golden["golden_no_full"]["astronaut"]
    rows = [(row, np.array(golden["scene"]["boxes_xywh"], np.float64)) for row in golden["scene"]["rows"]]
    return rows + [(row, boxes[own["mask_rows"]]) for row in own["rows"]]


@pytest.mark.parametrize("place", range(16))
def test_hybrid_relations_are_the_releases(place: int) -> None:
    row, boxes = golden_rows()[place]
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    other = None if row["logit_neg"][0] is None else np.array(soft(row["logit_neg"]))
    kind = {"up": "above", "down": "below", "big": "bigger", "small": "smaller"}.get(row["relation"], row["relation"])
    code = -1 if kind == "none" else KINDS.index(kind)
    top, rho, r = hybrid_relation(np.array(soft(row["logit"])), other, boxes, code, 3, 6)
    assert top.tolist() == row["top"]
    np.testing.assert_allclose(rho, row["rho"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(r, row["R"], rtol=1e-4, atol=1e-6)


def test_relations_of_boxes_are_the_releases() -> None:
    """Its "right" fires here; its table of scores 1 leaves the diagonal out but for ``within``, as equal numbers do here."""
    golden = json.loads((GOLDEN / "relations.json").read_text("utf-8"))
    xywh = np.array(golden["scene"]["boxes_xywh"], np.float64)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    names = {"up": "above", "down": "below", "big": "bigger", "small": "smaller"}
    for name, expected in golden["relation_table_scores_1"].items():
        if name not in ("none", "other"):
            found = box_relation(KINDS.index(names.get(name, name)), boxes, boxes)
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def test_a_box_of_no_width_is_within_nothing() -> None:
    """The release yields NaN."""
    boxes = np.array([[3.0, 1, 3, 9], [0, 0, 10, 10]])
    assert box_relation(KINDS.index("within"), boxes, boxes).tolist() == [[0, 0], [0, 1]]


def test_settings_are_checked() -> None:
    for rule, settings, said in [
        ("weighted", {"weights": {"local": 1}}, r"local: expected <view>\*<text>"),
        ("weighted", {"weights": {"local*nothing": 1}}, r"text one of sentence, phrase"),
        ("relation", {"base": "global_locl"}, r"did you mean 'global_local'"),
        ("relation", {"method": "none"}, r"method"),
        ("ordinal", {"overlap": 2}, r"overlap"),
    ]:
        with pytest.raises(ParameterError, match=said):
            score_stage.Params(enabled=[rule], settings={rule: settings}).chosen()


def test_a_bank_or_view_that_is_not_there(pairs: PairTable) -> None:
    with pytest.raises(ParameterError, match=r"subtraction\.bank: no split 'toy/vall'; did you mean 'toy/val'"):
        scored(pairs, "subtraction", {"bank": "toy/vall"})
    for rule, settings in [("negative", {"view": "gem"}), ("weighted", {"weights": {"gem*phrase": 1}})]:
        with pytest.raises(ParameterError, match=r"gem"):
            scored(pairs, rule, settings)
