"""The page of stage report, put together."""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.contract import Context, Summary
from stages.page import charts, comparison, gap, rules, tables
from stages.page.cards import MEASURED, UNMEASURED, Card, make_cards
from stages.page.data import Inputs, load_data
from stages.page.expressions import Expressions, Facts
from stages.page.reported import MARKS
from stages.scoring.rules.registry import label_of
from store.errors import rerun
from store.publish import write_file
from store.seal import sealed

SORTS = [
    ("iou", "lowest IoU first"),
    ("-iou", "highest IoU first"),
    ("-regret", "highest regret first"),
    ("margin", "narrowest margin first"),
    ("-margin", "widest margin first"),
]
"""(order, what the page calls it): see ``sorted`` in lists.js."""
_TEMPLATES = Path(__file__).parent / "templates"
_FILES = ("style.css", "media.css", "lists.js", "page.js")


def write_page(inputs: Inputs, out: Path, cards: int, image_width: int, seed: int, context: Context) -> Summary:
    """Write the page about ``inputs`` to ``out``; what was read and written.

    Args:
        cards: pictures of each kind and split. image_width: of a picture, pixels. seed: of the choice among equal ones.
    """
    summary = Summary()
    with ThreadPoolExecutor(1) as background:
        libraries = background.submit(_vega, context.work)  # seconds the first time, so in parallel with the rest
        with summary.timed("read"):
            data = load_data(inputs)
            known = Expressions(data)
        with summary.timed("pictures"):
            shown = make_cards(known, inputs.images, cards, image_width, seed, context)
        with summary.timed("chart library"):
            library = libraries.result()
        with summary.timed("page"):
            specs = charts.specs(data)
            page = _render(**_values(known, shown), charts=specs, library=library)
    write_file(out, sealed(page))
    summary.read = {"expressions": len(data.evaluated), "records": len(data.records)}
    summary.wrote = {"pictures": len(shown), "charts": len(specs), "bytes": out.stat().st_size}
    summary.skipped = [f"picture of expression {c.facts.expression_id}: {c.problem}" for c in shown if c.problem]
    return summary


def _values(known: Expressions, cards: list[Card]) -> dict[str, Any]:
    """What the templates print, by the names that they use."""
    data, failures = known.data, known.failures()
    return {
        "title": ", ".join(data.datasets),
        "synthetic": [name for name in data.datasets if name.startswith("refshapes")],
        "splits": data.groups,
        "main": data.main,
        "rival": data.rival,
        "encoder": data.encoder,
        "identity": tables.identity(data),
        "setting": tables.setting(data),
        "choices": gap.choices(known),
        "failures": failures,
        "cards": cards,
        "pictured": {card.facts.anchor for card in cards},
        "kinds": _kinds(cards),
        "options": _options([card.facts for card in cards] + failures.rows),
        "sorts": SORTS if data.measured else [sort for sort in SORTS if "margin" in sort[0]],
        "gap_in_pictures": _gap_in_pictures(cards),
        "hero": _hero(cards),
        "parameters": tables.parameters(data),
        "stages": tables.stages(data.records),
        "warnings": tables.warnings(data.records),
        "reasons": tables.reasons(data),
        **_measurements(known),
    }


def _measurements(known: Expressions) -> dict[str, Any]:
    """What the templates print of the splits with a ground truth; "measured" is False where there is none."""
    data = known.data
    metrics = tables.metrics_of(data)
    groups = list(tables.measured(data).values())
    differences = comparison.differences(data.differences, groups)
    return {
        "measured": bool(groups),
        "overview": tables.overview(metrics, data.main),
        "metrics": tables.metrics(metrics),
        "empty": data.scoring.empty,
        "singles": [
            {"place": f"{single.dataset} {single.split}", "rule": single.rule, "text": gap.single_text(single)}
            for single in gap.singles(known)
        ],
        "gaps": gap.gaps(data),
        "encoders": tables.encoders(data),
        "points": tables.points(data),
        "curves": any(point["used"] for point in tables.points(data)),
        "ablations": tables.by_dataset(tables.ablations(data.ablations, groups), groups),
        "reported": comparison.compare(data),
        "marks": MARKS,
        "differences": tables.by_dataset(differences, groups),
        "switches": comparison.switches(differences),
        "searches": tables.searches(data),
        "rules": rules.rules(data),
        "classes": rules.CLASSES,
    }


def _kinds(cards: list[Card]) -> list[tuple[str, str]]:
    """(kind, what the page calls it) of the kinds that a picture has."""
    present = {kind for card in cards for kind in card.kinds}
    return [(kind, name) for kind, name in (MEASURED | UNMEASURED).items() if kind in present]


def _options(listed: list[Facts]) -> dict[str, list[str]]:
    """Name of a filter -> the values to choose from, those of the expressions that are ``listed``."""
    lengths = {facts.length for facts in listed if facts.length}
    return {
        "category": sorted({facts.category for facts in listed if facts.category}),
        "length": sorted(lengths, key=lambda name: int(re.split(r"\D", name)[0])),
        "position": sorted({word for facts in listed for word in facts.positions}),
        "relation": sorted({word for facts in listed for word in facts.relations}),
    }


def _gap_in_pictures(cards: list[Card]) -> dict[str, Any] | None:
    """How many pictures are missing, and what to do; None where all are there."""
    missing = sum(not card.picture for card in cards)
    return {"missing": missing, "total": len(cards), "remedy": rerun("report")} if missing else None


def _hero(cards: list[Card]) -> list[Card]:
    """One of the best (or surest) pictures of each data set, of different images, three at most: what a reader sees first."""
    first: dict[str, Card] = {}
    for card in cards:
        shown = {other.facts.image for other in first.values()}
        if {"best", "wide"} & set(card.kinds) and card.picture and card.facts.image not in shown:
            first.setdefault(card.facts.dataset, card)
    return list(first.values())[:3]


def _vega(folder: Path) -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets ``window.vegaEmbed`` and nothing else.

    Bundling takes seconds and depends on the library alone, so ``folder`` keeps it, behind its digest.
    """
    kept = folder / f"vega-{version('vl-convert-python')}.js"
    if kept.is_file():
        digest, _, script = kept.read_text(encoding="utf-8", errors="replace").partition("\n")
        if digest == _digest(script):
            return script
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;")
    # Only a string can hold these: a regular expression may well hold "</", which must stay.
    bundle = re.sub(r"<(?=/script|!--)", r"\\x3c", bundle, flags=re.IGNORECASE)
    script = "(() => {" + bundle + "})();"
    write_file(kept, f"{_digest(script)}\n{script}")
    return script


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = tables.percent
    environment.filters["probability"] = tables.probability
    environment.filters["label"] = label_of
    environment.filters["signed"] = comparison.signed
    environment.filters["script_json"] = lambda value: Markup(_script_json(value))
    environment.filters["script"] = Markup
    files = {name: Markup((_TEMPLATES / name).read_text(encoding="utf-8")) for name in _FILES}
    return environment.get_template("page.html").render(files=files, **values) + "\n"


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
