"""Stage ablations: the metrics with settings other than the profile's, from pair tables alone.

Every stored k, sentence or phrase only, filters, prompts, searches for better values, and the deliberate differences from the
released code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from stages.contract import Context, Listed, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.scoring.fusion import Floats
from stages.scoring.metrics import Empty, summarise
from stages.scoring.rules.registry import Rules
from stages.scoring.table import Bootstrap, Evaluation, PairTable, Scoring, load_pairs, with_view
from stages.scoring.tuning import Search, tuned
from store.document import read_document, write_document
from store.errors import ParameterError, StoreError, repair


class TriedFilters(BaseParams):
    """The filters that are tried one at a time, each over the scores of the profile's point."""

    min_scores: Listed[Annotated[float, Field(ge=0, le=1)]] = Field(
        [], description="thresholds on the generator's confidence"
    )
    min_areas: Listed[Annotated[int, Field(ge=0)]] = Field([], description="least proposal areas, pixels")
    top_ns: Listed[Annotated[int, Field(ge=0)]] = Field([], description="numbers of proposals")


class Tried(TriedFilters):
    """All that is tried."""

    tune: dict[str, Search] = Field({}, description="name -> a search as of `glimpse tune`")


class Params(Scoring, Bootstrap, Rules, Tried):
    """The profile's point, its rules, and what is tried besides."""


class Paths(BasePaths):
    pairs: Path
    variants: Path
    ablations: Path
    outputs: ClassVar[tuple[str, ...]] = ("ablations",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the ablations file: ``ablations`` and ``differences``, lists of rows, one per setting and split, and
    ``tuned``, what each search found.

    Raises:
        StoreError: the variants were made for another pair table, or one of their tables is not the one listed.
    """
    summary = Summary()
    with summary.timed("read"):
        pairs, attrs = load_pairs(paths.pairs, params.k)
        variants = _read_list(paths.variants, attrs["digest"])
    summary.read = {"expressions": len(pairs.group), "pairs": len(pairs.union)}
    with summary.timed("score"):
        scores = pairs.dots.scores(pairs.alphas(params), params.beta)
        ablation_rows = ablations(pairs, scores, params)
        for template in variants["templates"]:
            setting = f'template = "{template["template"]}"'
            ablation_rows += _rows_of_file(paths.variants, template, params, "template", setting)
        for source in variants["sources"]:
            ablation_rows += _rows_of_file(paths.variants, source, params, "masks", f"source = {source['source']}")
        difference_rows = differences(paths.variants, variants["switches"], pairs, scores, params)
    with summary.timed("tune"):
        searches = {name: searched(name, search, pairs, params) for name, search in params.tune.items()}
    content = {"ablations": ablation_rows, "differences": difference_rows, "tuned": searches}
    write_document(paths.ablations, content, "ablations", {"pairs": attrs["digest"]})
    summary.wrote = {"ablations": len(ablation_rows), "differences": len(difference_rows)}
    summary.wrote |= {"searches": len(searches)} if searches else {}
    return summary


def searched(name: str, search: Search, pairs: PairTable, params: Params) -> dict[str, Any]:
    """What `stages.scoring.tuning.tuned` says of a search that starts at the profile's values.

    Raises:
        ParameterError: it cannot be made on this pair table; with its name.
    """
    settings = params.settings.get(search.rule, {})
    try:
        return tuned(search, pairs, params, settings, params.resamples, params.seed)
    except ParameterError as error:
        raise ParameterError(f"ablations.tune.{name}: {error}; or remove this search") from error


def ablations(pairs: PairTable, scores: Floats, params: Params) -> list[dict[str, Any]]:
    """Every stored k and masking, the contexts (Yu et al., CVPR 2023, sec. 4.4), and each filter tried.

    Args:
        pairs: unfiltered, with ``columns``. scores: at the profile's point (P,).
    """
    rows = _rows(pairs, scores, params, "chosen", f"k = {params.k}, beta = {params.beta:g}")
    alphas = pairs.alphas(params)
    for label, masking, k in pairs.columns.globals() if pairs.columns else ():
        if (masking, k) != ("token", params.k):
            dots = with_view(pairs, label).dots
            setting = f"k = {k}" if masking == "token" else f"k = {k}, {masking} masking"
            rows += _rows(pairs, dots.scores(alphas, params.beta), params, "masked blocks", setting)
    for visual, alpha in (("both", alphas), ("global", 1.0), ("local", 0.0)):
        for text, beta in (("both", params.beta), ("sentence", 1.0), ("noun phrase", 0.0)):
            if (visual, text) != ("both", "both"):
                rows += _rows(pairs, pairs.dots.scores(alpha, beta), params, "contexts", f"{visual} x {text}")
    for name, tried in (("min_score", params.min_scores), ("min_area", params.min_areas), ("top_n", params.top_ns)):
        for value in tried:
            rows += _rows(pairs, scores, params.model_copy(update={name: value}), name, f"{name} = {value:g}")
    return rows


def differences(
    folder: Path, switches: list[dict[str, Any]], pairs: PairTable, scores: Floats, params: Scoring
) -> list[dict[str, Any]]:
    """The metrics with each deliberate difference from the released code switched, after ``as configured``.

    Args:
        switches: as ``folder``, the output of stage variants, lists them. pairs, scores: as of ``ablations``.
    """
    rows = [{**row, "release": False} for row in _rows(pairs, scores, params, "as configured", "")]
    other: Empty = "skip" if params.empty == "count" else "count"
    policy = params.model_copy(update={"empty": other})
    rows += [{**row, "release": other == "skip"} for row in _rows(pairs, scores, policy, "empty", f"empty = {other}")]
    for switch in switches:
        name, setting, scoring = switch["name"], switch["setting"], params
        if name == "release":
            setting, scoring = f"{setting}, empty = skip", params.model_copy(update={"empty": "skip"})
        split_rows = _rows_of_file(folder, switch, scoring, name, setting)
        rows += [{**row, "release": switch["release"]} for row in split_rows]
    return rows


def _read_list(folder: Path, digest: str) -> dict[str, Any]:
    """The list of variants in ``folder``, which were made for the pair table of ``digest``."""
    content = read_document(folder / "variants.json", "variants")
    if content["pairs"] != digest:
        raise StoreError(f"{folder}: was made for another pair table than the one given; {repair(folder)}")
    return content


def _rows_of_file(
    folder: Path, variant: dict[str, Any], params: Scoring, name: str, setting: str
) -> list[dict[str, Any]]:
    """Rows of another pair table, that of a ``variant`` as ``folder`` lists it, at the profile's point."""
    table, attrs = load_pairs(folder / variant["file"], params.k)
    if attrs["digest"] != variant["digest"]:
        raise StoreError(f"{folder / variant['file']}: is not the table that variants.json lists; {repair(folder)}")
    return _rows(table, table.dots.scores(table.alphas(params), params.beta), params, name, setting)


def _rows(pairs: PairTable, scores: Floats, params: Evaluation, name: str, setting: str) -> list[dict[str, Any]]:
    """One row per split: oiou, miou and n, the evaluated expressions, by the best of these scores that the filters keep."""
    outcome = pairs.outcome(pairs.choice(scores, params))
    rows = []
    for group, (dataset, split) in enumerate(pairs.groups):
        members = pairs.members(group)
        summed = summarise(outcome.at(members), params.empty)
        row = {"name": name, "setting": setting, "dataset": dataset, "split": split}
        rows.append(row | {"oiou": summed["oiou"], "miou": summed["miou"], "n": len(members)})
    return rows
