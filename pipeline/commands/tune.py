"""Search for a rule's weights or parameters on some splits, reported on the others: ``glimpse tune``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.arguments import checked
from pipeline.commands.tables import VALUES, narrow_table, print_table
from pipeline.project import LoadedProject
from stages.page.comparison import signed
from stages.page.tables import percent, probability
from stages.scoring.comparison import TOO_FEW
from stages.scoring.table import load_pairs
from stages.scoring.tuning import POINT, Search, tuned
from store.errors import ParameterError, nearest
from store.fingerprint import canonical

Json = dict[str, Any]


def search_of(rule: str, on: Sequence[str], vary: Sequence[str], measure: str, evaluations: int, seed: int) -> Search:
    """The words of the command line as a search; ``vary`` are NAME=LEAST:GREATEST."""
    ranges: dict[str, Any] = {}
    for word in vary:
        name, equals, bounds = word.rpartition("=")
        least, colon, greatest = bounds.partition(":")
        if not (name and equals and colon):
            raise ParameterError(f"--vary {word}: expected NAME=LEAST:GREATEST, such as alpha=0:1")
        if name in ranges:
            raise ParameterError(f"--vary {name}: given twice")
        ranges[name] = (least, greatest)
    values = {"rule": rule, "splits": list(on), "measure": measure, "evaluations": evaluations, "seed": seed}
    return checked(Search, values | {"vary": ranges}, "tune")


def result_of(project: LoadedProject, search: Search, encoder: str) -> Json:
    """The search on the pair table of an encoder ("" for the main one), from the profile's own values."""
    values = project.values
    names = [values.encoder, *(name for name in values.encoders if name != values.encoder)]
    own = encoder or values.encoder
    if own not in names:
        raise ParameterError(f"--encoder: no encoder {own!r} in the profile; {nearest(own, names)}")
    scoring = values.score if own == values.encoder else values.score.for_encoder(own, names)
    pairs, _ = load_pairs(project.pairs(own), scoring.k)
    settings = values.rules.settings.get(search.rule, {})
    found = tuned(search, pairs, scoring, settings, values.bootstrap.resamples, values.bootstrap.seed)
    return {"encoder": own, **found}


def as_json(result: Json) -> str:
    return canonical(result)


def print_result(result: Json) -> None:
    """What was found, what it is worth elsewhere, and what to write into the params file."""
    measure = VALUES[result["measure"]]
    print(
        f"rule {result['rule']} of encoder {result['encoder']}, searched on {', '.join(result['on'])}: no result there"
    )
    print(
        f"{result['tried']} points tried; {measure} where searched: {percent(result['start'])} as the profile, "
        f"{percent(result['best'])} at the best"
    )
    if result["best"] <= result["start"]:
        print("no point tried is better there than the profile's own")
    for name, value in result["found"].items():
        print(f"  {name} = {value:g}")
    _print_worth(result)
    if result["best"] > result["start"]:
        print(f"\nto keep it, write into the params file:\n{_as_params(result['rule'], result['found'])}", end="")


def _print_worth(result: Json) -> None:
    if not any(line["n"] for line in result["splits"]):
        print("no other split with images of its own: nothing says what this is worth; score a second split")
        return
    print("\npercent; tuned less profile in points, with the 95 % interval and the two-sided p of a paired bootstrap")
    table = narrow_table()
    for name in ("data set", "split", "measure", "tuned", "profile", "gain", "95 % interval", "p", "n"):
        table.add_column(name, justify="left" if name in ("data set", "split", "measure") else "right")
    for line in (line for line in result["splits"] if line["n"]):
        for place, name in enumerate(("oiou", "miou")):
            cell = line[name]
            table.add_row(
                "" if place else line["dataset"],
                "" if place else line["split"],
                VALUES[name],
                percent(cell["a"]),
                percent(cell["b"]),
                *_gain(cell),
                str(line["n"]),
            )
    print_table(table)
    for line in result["splits"]:
        if line["images"] == 1:
            print(f"{line['dataset']} {line['split']}: {TOO_FEW}")
        if line["searched"]:
            print(
                f"{line['dataset']} {line['split']}: {line['searched']:,} expressions left out, their images were searched on"
            )


def _gain(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    if cell["difference"] is None or "ci" not in cell:
        return "–" if cell["difference"] is None else signed(100 * cell["difference"]), "–", "–"
    low, high = (signed(100 * end) for end in cell["ci"])
    return signed(100 * cell["difference"]), f"{low} to {high}", probability(cell["p"]).removeprefix("p ")


def _as_params(rule: str, found: Mapping[str, float]) -> str:
    """The values found as lines of a params file.

    >>> print(_as_params("weighted", {"weights.local*phrase": 0.5}), end="")
    rules:
      settings:
        weighted:
          weights:
            local*phrase: 0.5
    """
    content: Json = {}
    for name, value in found.items():
        if name in POINT:
            content.setdefault("score", {})[name] = value
            continue
        own = content.setdefault("rules", {}).setdefault("settings", {}).setdefault(rule, {})
        group, dot, cell = name.partition(".")
        if dot:
            own.setdefault(group, {})[cell] = value
        else:
            own[name] = value
    return yaml.safe_dump(content, sort_keys=False)
