"""A small store with all that the report shows, and a reader of the page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stages import report
from stages.contract import Context, Summary
from stages.page import page
from stages.parse import spatial_columns
from stages.text.relations import NO_SPATIAL
from store.document import write_document
from store.segmentation import encode
from store.table import read_table, write_table

HEIGHT, WIDTH = 48, 64
HOSTILE = """</script><script>alert("x")</script><img src=http://evil.example/x onerror='alert(1)'> {{ 7*7 }} "quoted" & 'so'"""
TEXTS = ["red disc", HOSTILE, "ročí 中文 disc", "blue box", "the box on the left", "green disc"]
BOXES = [[(4, 4, 28, 28), (34, 8, 60, 40), (6, 30, 26, 46)], [(10, 10, 50, 40), (0, 0, 20, 20)], []]
"""Proposals of the three images, XYXY. The last has none."""
TRUTHS = [(0, (5, 5, 29, 29)), (0, (34, 10, 60, 40)), (1, (8, 8, 50, 40)), (2, (4, 4, 40, 40))]
"""Image and box of the four refs."""
REF_OF = [0, 0, 1, 2, 2, 3]
GROUPS = [("refshapes", "val"), ("other", "test")]
STAGE_CONFIGS = {name: name for name in ("index", "embed_masks", "parse", "embed_text")} | {"propose": "proposals"}
PAPER_ENCODER = {
    "architecture": "ViT-B-32-quickgelu",
    "standard": "ViT-B/32",
    "backbone": "vit",
    "model": "ViT-B-32-quickgelu",
    "weights": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "precision": "float32",
}
RUN_OF = {"version": "0.9.7", "commit": "abc123def456", "date": "2026-11-25T12:00:00+00:00"}
GROUP_OF_REF = [0, 0, 1, 1]
CHOSEN = {
    "chosen.global_local": [0, 2, 1, 0, 1, -1],
    "chosen.global": [1, 1, 1, 0, 0, -1],
    "chosen.cropping": [0, 0, 1, 1, 1, -1],
}
SCORES = [[30.5, 20.25, 10.0], [5.0, 7.0, 9.0], [1.0, 3.0, 2.0], [4.0, 2.0], [2.0, 6.0], []]
CATEGORIES = ["disc", "box", "disc", ""]
POSITIONS = ["[]", "[]", "[]", "[]", '["left"]', "[]"]
RELATIONS = ["[]", "[]", '["Big", "left"]', "[]", "[]", "[]"]
RULES = ("global_local", "global", "cropping", "upper_bound", "random")


def rectangle(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def iou(expression: int, position: int) -> float:
    """By the masks themselves; 0 without a choice."""
    image, truth = TRUTHS[REF_OF[expression]]
    if position < 0:
        return 0.0
    a, b = rectangle(BOXES[image][position]), rectangle(truth)
    return float((a & b).sum() / (a | b).sum())


def build(
    root: Path,
    groups: list[tuple[str, str]] = GROUPS,
    config: dict[str, Any] | None = None,
    origins: dict[str, Any] | None = None,
    score_rule: str = "cosine",
    configs: dict[str, dict[str, Any]] | None = None,
    encoder: dict[str, str] | None = None,
    without_truth: Collection[int] = (),
) -> report.Paths:
    """A store of 3 images, 4 refs and 6 expressions in ``root``.

    ``without_truth``: rows of ``groups`` whose data set has no ground truth. ``config``: settings of
    score. ``configs``: those of index, proposals and parse in place of the usual.
    """
    own: dict[str, dict[str, Any]] = {
        "index": {"splits": ["val", "test"]},
        "proposals": {"thresholds": {"score": 0.1}},
        "parse": {"spacy_model": "sm", "code": "0123456789abcdef" * 4},
        "embed_masks": {},
        "embed_text": {},
    } | (configs or {})
    (root / "images").mkdir(parents=True)
    for number in range(3):
        picture = Image.new("RGB", (WIDTH, HEIGHT), (200, 210, 190))
        for colour, box in zip(("red", "blue", "green"), BOXES[number], strict=False):
            ImageDraw.Draw(picture).rectangle(box, fill=colour)
        picture.save(root / "images" / f"{number}.png")
    digests = [hashlib.sha256((root / "images" / f"{n}.png").read_bytes()).hexdigest() for n in range(3)]
    paths = report.Paths(
        **{name: root / f"{name}.h5" for name in ("index", "proposals", "parse", "pairs", "scores")},
        **{name: root / f"{name}.json" for name in ("metrics", "ablations", "grid")},
        **{name: root / name for name in ("images", "records")},
        report=root / "report.html",
    )
    refs = {
        "ref_id": np.arange(10, 14),
        "ref_image": np.array([image for image, _ in TRUTHS]),
        "ref_group": np.array(GROUP_OF_REF, np.int32),
        "ref_category": CATEGORIES,
        "ref_mask": [
            b"" if group in without_truth else encode(rectangle(box)[None])[0]
            for group, (_, box) in zip(GROUP_OF_REF, TRUTHS, strict=True)
        ],
        "ref_status": [""] * 4,
    }
    images = {
        "image_name": [f"{n}.png" for n in range(3)],
        "image_size": np.array([[HEIGHT, WIDTH]] * 3, np.int32),
        "image_digest": digests,
        "image_status": [""] * 3,
        "image_id": np.arange(3),
        "instance_offsets": np.zeros(4, np.int64),
        "instance_mask": [],
    }
    expressions = {"expression_id": np.arange(100, 106), "expression_ref": np.array(REF_OF), "expression_raw": TEXTS}
    expressions["expression_status"] = [""] * 6
    index = write_table(
        paths.index, "index", images | refs | expressions, own["index"], {}, groups=groups, origins=origins or {}
    )
    flat = [box for own in BOXES for box in own]
    columns: dict[str, Any] = {
        "image_offsets": np.array([0, 3, 5, 5]),
        "mask": encode(np.stack([rectangle(box) for box in flat])),
        "box": np.array(flat, np.float32),
        "score": np.array([0.9, 0.8, 0.3, 0.7, 0.6], np.float32),
        "area": np.array([rectangle(box).sum() for box in flat]),
        "status": ["", "", "no proposal above the thresholds"],
        "state": ["", "", "no proposals"],
    }
    proposals = write_table(paths.proposals, "proposals", columns, own["proposals"], {"index": index.digest})
    lists = {"other_phrases": ["[]"] * 6, "position_words": POSITIONS, "relation_words": RELATIONS}
    lists |= spatial_columns([NO_SPATIAL._asdict()] * 6)
    phrases = {"sentence": TEXTS, "noun_phrase": [*TEXTS[:5], ""], "status": [""] * 5 + ["empty sentence"]}
    parse = write_table(paths.parse, "parse", phrases | lists, own["parse"], {"index": index.digest})
    pairs = write_table(
        paths.pairs,
        "pairs",
        pair_columns(proposals, without_truth),
        {},
        {"index": index.digest, "proposals": proposals.digest, "parse": parse.digest},
        groups=groups,
        score_rule=score_rule,
        encoder=PAPER_ENCODER if encoder is None else encoder,
        configs={name: own[table] for name, table in STAGE_CONFIGS.items()},
    )
    best = [max(range(len(s)), key=lambda p, e=e: iou(e, p), default=-1) for e, s in enumerate(SCORES)]
    chosen = {name: np.array(values) for name, values in (CHOSEN | {"chosen.upper_bound": best}).items()}
    scores = {"score": np.array([score for own in SCORES for score in own], np.float32)}
    settings = {
        "alpha": 0.85,
        "alpha_by_dataset": {"other": 0.25} if any(name == "other" for name, _ in groups) else {},
        "beta": 0.5,
        "k": 3,
        "empty": "count",
        "min_score": 0.0,
    }
    write_table(
        paths.scores,
        "scores",
        chosen | scores,
        settings | (config or {}),
        {"pairs": pairs.digest},
        rules=["global_local", "global", "cropping"],
    )
    set_metrics(paths, invented_metrics(groups, without_truth))
    write_document(paths.ablations, invented_ablations(groups), "ablations", {"pairs": pairs.digest})
    write_document(paths.grid, invented_grid(groups), "sweep", {"pairs": pairs.digest})
    return paths


def set_metrics(paths: report.Paths, metrics: dict[str, Any]) -> None:
    """The metrics file, and what the scores table says was found."""
    table = read_table(paths.scores, "scores")
    attrs = {name: table.attrs[name] for name in ("config", "made_from")}
    write_table(paths.scores, "scores", table.columns, **attrs, rules=table.attrs["rules"], metrics=metrics)
    write_document(paths.metrics, metrics, "score", RUN_OF)


def pair_columns(proposals: Any, without_truth: Collection[int] = ()) -> dict[str, Any]:
    image_of = [TRUTHS[ref][0] for ref in REF_OF]
    rows = [proposals["image_offsets"][image] + p for image in image_of for p in range(len(BOXES[image]))]
    overlaps = []
    for image, ref in zip(image_of, REF_OF, strict=True):
        truth = rectangle(TRUTHS[ref][1]) & (GROUP_OF_REF[ref] not in without_truth)
        overlaps += [((rectangle(b) & truth).sum(), (rectangle(b) | truth).sum()) for b in BOXES[image]]
    unknown = [GROUP_OF_REF[ref] in without_truth for ref in REF_OF]
    dots = [f"dot.{view}*{text}" for view in ("local", "global.k3") for text in ("sentence", "phrase")]
    own = ("view_product.local*local", "view_product.global.k3*global.k3", "view_product.global.k3*local")
    texts = ("text_product.sentence*sentence", "text_product.phrase*phrase", "text_product.phrase*sentence")
    return {
        "expression_offsets": np.cumsum([0, *(len(BOXES[image]) for image in image_of)]),
        "expression_image": np.array(image_of),
        "expression_ref": np.array(REF_OF),
        "expression_group": np.array([GROUP_OF_REF[ref] for ref in REF_OF], np.int32),
        "expression_area": np.array(
            [0 if own else rectangle(TRUTHS[ref][1]).sum() for own, ref in zip(unknown, REF_OF, strict=True)]
        ),
        "expression_state": [
            "not annotated" if own else state for own, state in zip(unknown, [""] * 5 + ["no proposals"], strict=True)
        ],
        "expression_status": ["its data set has no ground truth" if own else "" for own in unknown],
        "expression_truncated": np.zeros(6, np.bool_),
        **{name: np.ones(6, np.float32) for name in texts},
        **{name: np.ones(len(proposals["score"]), np.float32) for name in own},
        "proposal": np.array(rows),
        "intersection": np.array([i for i, _ in overlaps]),
        "union": np.array([u for _, u in overlaps]),
        **{name: np.ones(len(rows), np.float32) for name in dots},
        **{f"proposal_{name}": proposals[name] for name in ("score", "area", "box")},
        **beyond(len(REF_OF), len(proposals["score"])),
    }


def beyond(expressions: int, proposals: int) -> dict[str, Any]:
    """The columns of places and relations, of sentences without any."""
    spatial = spatial_columns([NO_SPATIAL._asdict()] * expressions)
    return {
        "proposal_centroid": np.full((proposals, 2), 0.5, np.float32),
        "proposal_prior": np.full((proposals, 5), 0.5, np.float32),
        "proposal_size": np.full((proposals, 2), (HEIGHT, WIDTH), np.int32),
        **{f"expression_{name}": spatial.pop(name) for name in ("position", "ordinal", "hybrid")},
        **spatial,
        "other_offsets": np.zeros(expressions + 1, np.int64),
        "other_product": np.zeros(0, np.float32),
        "other_sum_product": np.zeros(expressions, np.float32),
    }


def invented_metrics(groups: list[tuple[str, str]], without_truth: Collection[int] = ()) -> dict[str, Any]:
    """Numbers that nothing else in the page can produce by chance; None for what has no ground truth."""
    rng = np.random.default_rng(5)
    names = (
        "expressions",
        "refs",
        "images",
        "images_without_proposals",
        "truncated_texts",
        "not_evaluated",
        "no_choice",
    )
    result: dict[str, Any] = {}
    for group, (dataset, split) in enumerate(groups):
        rules: dict[str, Any] = {}
        for rule in RULES:
            values = {name: float(rng.random()) for name in ("oiou", "miou", "p50", "p70", "p90")}
            intervals = {f"{name}_ci": sorted(rng.random(2).tolist()) for name in ("oiou", "miou")}
            rules[rule] = {
                **values,
                "n": int(rng.integers(1000)),
                **intervals,
                "skip": {"oiou": float(rng.random()), "miou": None, "n": 0},
            }
            if rule in ("global", "cropping"):
                low, middle, high = sorted((rng.random(3) - 0.5).tolist())
                found = {"miou": middle, "miou_ci": [low, high], "p": 0.0004 if rule == "global" else 0.125}
                rules[rule]["versus"] = {"rule": "global_local", **found}
        if group in without_truth:
            nothing = {**dict.fromkeys(("oiou", "miou", "p50", "p70", "p90")), "n": 0}
            rules = {rule: {**nothing, "skip": {"oiou": None, "miou": None, "n": 0}} for rule in RULES}
        counts = {name: int(rng.integers(100, 999)) for name in names}
        result.setdefault(dataset, {})[split] = {**rules, "counts": counts}
    return result


def invented_grid(groups: list[tuple[str, str]], size: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(6)
    splits: dict[str, Any] = {}
    for dataset, split in groups:
        best = {name: {"alpha": 0.25, "beta": 0.75, "value": 0.9} for name in ("oiou", "miou")}
        surface = {name: rng.random((size, size)).tolist() for name in ("oiou", "miou")}
        splits.setdefault(dataset, {})[split] = {**surface, "best": best}
    axis = np.linspace(0, 1, size).tolist()
    return {"alphas": axis, "betas": axis, "splits": splits}


def invented_ablations(groups: list[tuple[str, str]]) -> dict[str, Any]:
    ablation = {"name": "text", "setting": "<b>phrase</b> only", "dataset": groups[0][0], "split": groups[0][1]}
    return {"ablations": [{**ablation, "oiou": 0.1234, "miou": 0.2345, "n": 3}], "differences": [], "tuned": {}}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def find(self, test: Callable[[Element], bool]) -> list[Element]:
        nested = [c.find(test) for c in self.children if isinstance(c, Element)]
        return ([self] if test(self) else []) + [e for found in nested for e in found]

    def tags(self, tag: str, **attributes: str) -> list[Element]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return self.find(lambda e: e.tag == tag and all(e.attributes.get(n) == v for n, v in wanted.items()))

    def classed(self, name: str) -> list[Element]:
        return self.find(lambda e: name in e.attributes.get("class", "").split())

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


VOID = ("meta", "link", "img", "input", "br")
ENDED_BY = {"th": ("th", "td", "tr"), "td": ("th", "td", "tr"), "tr": ("tr",), "li": ("li",), "option": ("option",)}


class Reader(HTMLParser):
    """A tree of the page; elements that HTML lets end by themselves (table parts, li, p) are closed by the next one."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("page", {})
        self.open = [self.root]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ENDED_BY.get(self.open[-1].tag, ()):
            self.open.pop()
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1].tag != tag:
            assert self.open[-1].tag in ENDED_BY, f"</{tag}> closes {self.open[-1].tag}"
            self.open.pop()
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def make(paths: report.Paths, **params: Any) -> tuple[Element, Summary]:
    summary = report.run(report.Params(**params), paths, Context(work=paths.report.parent / "work"))
    return Reader(paths.report.read_text(encoding="utf-8")).root, summary


def card(page: Element, expression: int) -> Element:
    (found,) = page.tags("figure", data_expression=str(100 + expression))
    return found


def without_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the chart library, which takes seconds to bundle."""
    monkeypatch.setattr(page, "_vega", lambda folder: "")
