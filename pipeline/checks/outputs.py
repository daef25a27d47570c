"""Every output of a profile, read whole: checksums, counts, and whether each was made from the others that lie there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.checks.fault import Fault
from pipeline.freshness import digest_now, other_metrics
from pipeline.project import LoadedProject
from pipeline.registry import FILES, Instance, instances, stage_module
from pipeline.reruns import stage_values
from stages.scoring.metrics import metrics_by_encoder
from stages.scoring.plots import iou_table, rules_table, summary_text, surface_table
from stages.scoring.table import load_pairs
from store import schema
from store.document import RUN, read_document
from store.errors import StoreError
from store.publish import remove
from store.seal import check_seal
from store.table import read_table
from store.vectors import SHARD_ROWS, Vectors

_OF_SOME_IMAGES = {"mask_features": {"I"}}
"""Table -> the symbols that count other rows there: I of mask_features counts images that have masks."""


@dataclass
class Read:
    """An output that was read whole: its attributes, and how many rows each symbol of its columns' shapes stands for."""

    path: Path
    attrs: Mapping[str, Any]
    counts: dict[str, int] = field(default_factory=dict)


def check_outputs(project: LoadedProject, foreign: frozenset[str] = frozenset()) -> Iterator[Fault]:
    """The outputs that are damaged, and those that do not belong to the others.

    Args:
        foreign: absolute paths of outputs that are known to be others than the stages wrote; what does not fit them is
            not to blame.
    """
    read: dict[tuple[str, str], Read] = {}
    bad: set[tuple[str, str]] = set()
    every = instances(project.values.encoders)
    for instance in every:
        files = stage_values(project, instance.stage, {}, instance.encoder)[1]
        for name in stage_module(instance.stage).Paths.outputs:
            path, place = files[name], (name, instance.encoder)
            if not path.exists():
                continue  # nothing there is no fault: `dvc repro` makes it
            try:
                read[place] = read_output(path, name)
            except StoreError as error:
                bad.add(place)
                yield _fault("output", instance, path, str(error))
            if os.path.abspath(path) in foreign:
                bad.add(place)
    for instance in every:
        yield from _unfit(project, instance, read, bad)


def _fault(kind: str, instance: Instance, path: Path, what: str) -> Fault:
    return Fault(kind, instance.name, path, what.removeprefix(f"{path}: "), partial(remove, path))


def read_output(path: Path, name: str) -> Read:
    """Read every byte of output ``name`` (a field of a stage's ``Paths``) that has a checksum.

    Raises:
        StoreError: it is damaged, or another output.
    """
    if name in schema.TABLES:
        return _read_vectors(path, name) if name.endswith("_features") else _read_table(path, name)
    if name == "report":
        check_seal(path)
        return Read(path, {})
    if name == "variants":
        return _read_variants(path)
    if name == "summary" or name.endswith("_plot"):  # views of other outputs: of metrics (see `_unfit`), in DVC's cache
        path.read_bytes()
        return Read(path, {})
    content = read_document(path, _PRODUCERS[name])
    return Read(path, {"made_from": {k: v for k, v in content[RUN].items() if k == "pairs" and name != "metrics"}})


_PRODUCERS = {"metrics": "score", "ablations": "ablations", "grid": "sweep"}


def _read_table(path: Path, name: str) -> Read:
    table = read_table(path, name)
    read = Read(path, table.attrs)
    for column, values in table.columns.items():
        described = schema.TABLES[name].column(column)
        if described is not None:
            shape = np.shape(values) if isinstance(values, np.ndarray) else (len(values),)
            _count(read, name, described.dims, shape)
    return read


def _count(read: Read, name: str, dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Note how many rows each symbol stands for, offsets less one."""
    for symbol, size in zip(dims, shape, strict=False):
        base, plus, _ = symbol.partition("+")
        if not base.isdigit() and base not in _OF_SOME_IMAGES.get(name, ()):
            read.counts.setdefault(base, size - bool(plus))


def _read_vectors(path: Path, name: str) -> Read:
    """The digest of every column is computed from its values: those of its chunks' checksums hold for each one alone."""
    vectors = Vectors(path, name)
    read, described = Read(path, vectors.attrs), schema.TABLES[name]
    small = {key.removesuffix(".bytes").removesuffix(".offsets") for key in vectors.attrs["columns"]}
    for column in sorted(small):
        known = described.column(column)
        if known is not None and "D" in known.dims:
            _require_digest(vectors, column)
            _count(read, name, known.dims, (vectors.rows_stored, vectors.width))
        elif known is not None:
            _count(read, name, known.dims, (len(vectors.column(column)),))
    return read


def _require_digest(vectors: Vectors, column: str) -> None:
    digest = hashlib.sha256()
    for start in range(0, vectors.rows_stored, SHARD_ROWS):
        digest.update(np.ascontiguousarray(vectors.rows(column, start, start + SHARD_ROWS)).data)
    if digest.hexdigest() != vectors.attrs["columns"][column]:
        raise StoreError(
            f"{vectors.path / column}: damaged or from another folder: expected values with digest "
            f"{vectors.attrs['columns'][column]}, found {digest.hexdigest()}; {vectors.remedy}"
        )


def _read_variants(path: Path) -> Read:
    listed = read_document(path / "variants.json", "variants")
    for variant in (*listed["switches"], *listed["templates"], *listed["sources"]):
        table = read_table(path / variant["file"], "pairs")
        if table.digest != variant["digest"]:
            raise StoreError(f"{path / variant['file']}: is not the table that variants.json lists")
    return Read(path, {"made_from": {"pairs": listed["pairs"]}})


def _unfit(
    project: LoadedProject, instance: Instance, read: Mapping[tuple[str, str], Read], bad: set[tuple[str, str]]
) -> Iterator[Fault]:
    """The outputs of ``instance`` that were made from other inputs than lie there, or have another number of rows."""
    digests = {place: found.attrs.get("digest") for place, found in read.items()}
    files = stage_values(project, instance.stage, {}, instance.encoder)[1]
    for name in stage_module(instance.stage).Paths.outputs:
        place = (name, instance.encoder)
        found = read.get(place)
        if found is None or place in bad:
            continue
        others = [
            source
            for source, digest in found.attrs.get("made_from", {}).items()
            if _place(project, instance, source) not in bad
            and digest_now(project, instance, source, digests) not in (None, digest)
        ]
        if others:
            bad.add(place)
            what = f"was made from another {', '.join(others)} than lies there"
            yield _fault("reference", instance, found.path, what)
        elif rows := _other_counts(place, read, bad):
            bad.add(place)
            yield _fault("reference", instance, found.path, f"expected {rows}")
        elif name == "metrics" and read.get(("scores", "")) and ("scores", "") not in bad:
            for what in other_metrics(files["metrics"], {"scores": read["scores", ""].attrs}):
                yield _fault("reference", instance, found.path, what)
        elif name in VIEWS and not _is_view(project, name, files, read, bad):
            bad.add(place)
            yield _fault("reference", instance, found.path, f"is not what {VIEWS[name]} says")


VIEWS = {"summary": "metrics", "rules_plot": "metrics", "iou_plot": "scores", "surface_plot": "grid"}
"""Files for DVC's tables and plots -> the output whose numbers they show."""


def _is_view(
    project: LoadedProject,
    name: str,
    files: Mapping[str, Path],
    read: Mapping[tuple[str, str], Read],
    bad: set[tuple[str, str]],
) -> bool:
    """Whether a file for DVC's views is made of the output that it shows; True where that cannot tell."""
    needed = {(VIEWS[name], ""), ("scores", "")} if name != "surface_plot" else {("grid", "")}
    if bad & needed or not needed <= read.keys():
        return True
    if name == "surface_plot":
        expected = surface_table(read_document(read["grid", ""].path, "sweep"))
    elif name == "iou_plot":
        scores = read_table(read["scores", ""].path, "scores")
        if ("pairs", project.values.encoder) in bad:
            return True
        pairs, _ = load_pairs(project.pairs(), scores.attrs["config"]["k"])
        rule = scores.attrs["rules"][0]
        expected = iou_table(pairs, {each: scores[f"chosen.{each}"] for each in (rule, "upper_bound")}, rule)
    else:
        metrics = metrics_by_encoder(read_document(read["metrics", ""].path, "score"))[""]
        made = rules_table(metrics) if name == "rules_plot" else ""
        expected = made or summary_text(metrics, read["scores", ""].attrs["rules"][0])
    return bool(files[name].read_bytes() == expected.encode())


def _place(project: LoadedProject, instance: Instance, source: str) -> tuple[str, str]:
    """Which output ``source`` of ``made_from`` names."""
    name, _, encoder = source.partition("@")
    per_encoder = "{encoder}" in FILES.get(name, "")
    return name, (encoder or instance.encoder or project.values.encoder) if per_encoder else ""


def _other_counts(place: tuple[str, str], read: Mapping[tuple[str, str], Read], bad: set[tuple[str, str]]) -> str:
    """What number of rows an output before it has for the same symbol; "" where all agree."""
    before = dict(takewhile(lambda item: item[0] != place, read.items()))
    for symbol, count in read[place].counts.items():
        for other, found in before.items():
            same = symbol not in "DSYX" or place[1] == other[1]  # of one encoder
            if other not in bad and same and found.counts.get(symbol, count) != count:
                return f"{found.counts[symbol]} rows ({symbol}) as {found.path} has, found {count}"
    return ""
