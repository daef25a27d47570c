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
from stages.page import charts, comparison, tables
from stages.page.cards import Card, make_cards
from stages.page.data import Inputs, load_data
from stages.page.reported import MARKS
from stages.scoring.rules.registry import label_of
from store.errors import CodeError
from store.publish import write_file
from store.seal import sealed

_FOLDER = Path(__file__).parent
_PLACE = "<script>/*vega*/</script>"


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
        with summary.timed("pictures"):
            shown = make_cards(data, inputs.images, cards, image_width, seed, context)
        with summary.timed("page"):
            specs = charts.specs(data)
            differences = comparison.differences(data.differences, data.groups)
            page = _render(
                title=", ".join(data.datasets),
                synthetic=[name for name in data.datasets if name.startswith("refshapes")],
                splits=data.groups,
                overview=tables.overview(data.metrics, data.main),
                main=data.main,
                rival=data.rival,
                encoder=data.encoder,
                identity=tables.identity(data),
                metrics=tables.metrics(data.metrics),
                empty=data.scores.attrs["config"].get("empty", "count"),
                encoders=tables.encoders(data),
                points=tables.points(data),
                ablations=tables.ablations(data.ablations, data.groups),
                reported=comparison.compare(data),
                marks=MARKS,
                differences=differences,
                switches=comparison.switches(differences),
                parameters=tables.parameters(data),
                stages=tables.stages(data.records),
                warnings=tables.warnings(data.records),
                skipped=tables.skipped(data),
                cards=shown,
                hero=_hero(shown),
                charts=specs,
            )
        with summary.timed("chart library"):
            page = _with_script(page, libraries.result())
    write_file(out, sealed(page))
    summary.read = {"expressions": len(data.evaluated), "records": len(data.records)}
    summary.wrote = {"pictures": len(shown), "charts": len(specs), "bytes": out.stat().st_size}
    summary.skipped = [f"picture of expression {card.expression_id}: {card.problem}" for card in shown if card.problem]
    return summary


def _hero(cards: list[Card]) -> list[Card]:
    """One of the best pictures of each data set, of different images, three at most: what a reader sees first."""
    first: dict[str, Card] = {}
    for card in cards:
        if "best" in card.kinds and card.picture and all(card.image != other.image for other in first.values()):
            first.setdefault(card.dataset, card)
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


def _with_script(page: str, script: str) -> str:
    """``page`` with the chart library in its place: the comment that is all of a script element, which no value of the run
    can be, since templates escape ``<``; the comment alone may well stand in a sentence.
    """
    before, place, after = page.partition(_PLACE)
    if not place or _PLACE in after:
        raise CodeError(f"{_FOLDER / 'page.html'}: expected {_PLACE} once; restore that file")
    return f"{before}<script>{script}</script>{after}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
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
    files = {name: Markup((_FOLDER / name).read_text(encoding="utf-8")) for name in ("style.css", "page.js")}
    return environment.get_template("page.html").render(files=files, **values) + "\n"


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
