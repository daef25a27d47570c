"""``glimpse verify``: everything a golden folder holds against what we compute, a line per quantity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.golden.check import Check
from pipeline.golden.folder import Absent, Arrays, Folder

if TYPE_CHECKING:
    from spacy.language import Language

    from pipeline.golden.features import Features, Rows


def verify(path: Path, spacy_model: str) -> bool:
    """Print every check of the folder ``path`` and a summary; whether none failed.

    Raises:
        DataError: nothing to check, no weights.py, a damaged file. WeightsError: the spaCy model is not installed.
    """
    console = Console()
    done = []
    if console.is_terminal:
        with console.status("rebuilding the weights and computing"):
            done = list(checks(Folder(path), spacy_model))
        console.print(_table(done))
    else:
        for check in checks(Folder(path), spacy_model):
            done.append(check)
            print(_line(check), flush=True)
    failed, absent = sum(check.failed for check in done), sum(check.error is None for check in done)
    print(f"{len(done) - failed - absent} pass, {failed} fail, {absent} not in this folder")
    return not failed


def checks(folder: Folder, spacy_model: str) -> Iterator[Check]:
    """All checks, in the order of the pipeline. One network is in memory at a time."""
    from pipeline.golden.proposals import check_proposals
    from pipeline.golden.results import check_pipeline_texts
    from pipeline.golden.texts import check_texts
    from stages.text.spacy_model import load_spacy

    _ = folder.weights  # a folder without its code is refused before any work
    nlp = load_spacy(spacy_model)
    yield from check_texts(folder, nlp)
    try:
        items = folder.rows("pipeline.json", "items")
    except Absent as lost:
        items = []
        yield Check("pipeline", "all", None, note=str(lost))
    else:
        yield from check_pipeline_texts(folder, items, nlp)
    yield from check_proposals(folder)
    for mode in ("vit", "rn50"):
        yield from _encoder_checks(mode, folder, items, nlp)


def _encoder_checks(mode: str, folder: Folder, items: list[dict[str, object]], nlp: Language) -> Iterator[Check]:
    from open_clip.tokenizer import SimpleTokenizer

    from pipeline.golden import features, results
    from stages.visual.encoder import MaskedClip

    title, file = features.TITLES[mode], features.MODELS[mode][1]
    if not items and not folder.has("text.npz") and not folder.has(f"{file}_*.npz"):
        yield Check(title, "all", None, note=f"text.npz, {file}_<image>.npz, pipeline.json")
        return
    model = features.rebuilt(folder, mode)
    clip = MaskedClip(model, SimpleTokenizer())
    yield from features.check_text_vectors(mode, clip, folder)
    by_image: dict[str, tuple[Rows, Features]] = {}
    for name in folder.images:
        part = f"{title} {name}"
        try:
            rows = features.rows_of(folder, name)
        except Absent as lost:
            yield Check(part, "all", None, note=str(lost))
            continue
        golden: Arrays | None = None
        try:
            golden = folder.arrays(f"{file}_{name}.npz")
        except Absent as lost:
            yield Check(part, "all", None, note=str(lost))
        ks = {features.K} if golden is None else {features.K, *features.ks_of(golden)}
        by_image[name] = rows, features.features_of(clip, rows, sorted(ks))
        if golden is not None and mode == "vit":
            yield from features.check_pixels(name, rows, golden)
            yield from features.check_vit(name, clip, *by_image[name], golden)
        elif golden is not None:
            yield from features.check_rn50(name, model, *by_image[name], golden)
    if items:
        yield from results.check_results(mode, folder, items, results.score_items(mode, clip, items, by_image, nlp))


def _line(check: Check) -> str:
    error, tolerance = _numbers(check)
    numbers = f"error {error:<8}  tolerance {tolerance:<6}"
    return f"{check.part:<22}  {check.quantity:<27}  {numbers}  {check.verdict:<4}  {check.note}".rstrip()


def _numbers(check: Check) -> tuple[str, str]:
    return ("-", "-") if check.error is None else (f"{check.error:.2g}", f"{check.tolerance:g}")


def _table(done: Iterable[Check]) -> Table:
    table = Table("part", "quantity", "largest error", "tolerance", "result", "note")
    for check in done:
        style = "red" if check.failed else "dim" if check.error is None else ""
        table.add_row(check.part, check.quantity, *_numbers(check), check.verdict, escape(check.note), style=style)
    return table
