"""Mutated inputs for every reader of what others wrote: each ends in a value or in one of Glimpse's own errors, in time."""

from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import GlimpseError
from tests.faults.bench import Bench, Tally
from tests.faults.injection import in_child
from tests.faults.mutation import json_mutated, mutated

_BATCH, _SECONDS = 200, 300
Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """A reader, a good file for it, and what mutates that file."""

    name: str
    sample: Path
    read: Callable[[Path], Any]
    mutate: Mutate = mutated


def readers(bench: Bench, folder: Path) -> list[Reader]:
    """All readers of files that come from outside, and of what the store wrote."""
    from safetensors.numpy import save_file

    from pipeline.params_file import read_params
    from stages.clip.state_dict import read_state_dict
    from stages.datasets.files import read_json
    from stages.datasets.refer import read_refer
    from stages.proposals.forms.documents import document_rows
    from stages.proposals.forms.given import read_value
    from store.document import read_document
    from store.images import load_image
    from store.seal import check_seal
    from store.table import read_table
    from store.untrusted import load_refs

    folder.mkdir(parents=True, exist_ok=True)
    instances = bench.folder / "refer/refshapes/instances.json"
    refer, kept = bench.folder / "refer", bench.kept
    masks = folder / "masks.json"
    masks.write_text(
        '[{"image_id": 1, "score": 0.5, "segmentation": {"size": [4, 6], "counts": "07N4"}}, {"bbox": [1, 2]}]'
    )
    weights = folder / "weights.safetensors"
    save_file({"a.weight": np.ones((4, 5), np.float32), "a.bias": np.zeros(5, np.float32)}, weights)
    pictures, refs = sorted((refer / "images").rglob("*.png")), sorted(refer.rglob("*.p"))
    data_set = folder / "refer"
    shutil.copytree(refer / "refshapes", data_set / "x", dirs_exist_ok=True)

    def whole(name: str, path: Path) -> Any:
        shutil.copyfile(path, data_set / "x" / name)
        try:
            return read_refer(data_set, "x", "synth", ["val"])
        finally:
            shutil.copyfile(refer / "refshapes" / name, data_set / "x" / name)

    found = [
        Reader("a table", kept / "data/overlap.h5", lambda path: read_table(path, "overlap")),
        Reader("a document", kept / "data/grid.json", lambda path: read_document(path, "sweep"), json_mutated),
        Reader("a page", kept / "data/report.html", check_seal),
        Reader("annotations", instances, lambda path: read_json(path, "x"), json_mutated),
        Reader("proposals", masks, lambda path: list(document_rows(read_value(path), "x", "y")), json_mutated),
        Reader("a params file", bench.profile, read_params),
        Reader("weights", weights, read_state_dict),
        Reader("a picture", pictures[0], load_image),
        Reader("refs", refs[0], load_refs),
        Reader("refs of another structure", refs[0], lambda p: whole("refs(synth).p", p), _refs_mutated),
        Reader("annotations of another structure", instances, lambda p: whole("instances.json", p), json_mutated),
    ]
    parts = sorted((kept / "work").rglob("manifest.jsonl"))[0]
    return [*found, Reader("a manifest of parts", parts, lambda path: _open_parts(path, parts.parent))]


def _refs_mutated(content: bytes, rng: random.Random) -> bytes:
    from tests.faults.mutation import other_structure

    refs = pickle.loads(content)  # made by the test's own generator
    return pickle.dumps(other_structure(refs[:20], rng), protocol=2)


def _open_parts(manifest: Path, of: Path) -> Any:
    """Open parts with another manifest."""
    from store.verify_parts import bad_parts

    folder = manifest.parent / "x" / of.parent.name / of.name
    if not folder.exists():
        shutil.copytree(of, folder)
    shutil.copyfile(manifest, folder / "manifest.jsonl")
    for bad in bad_parts(folder):
        raise GlimpseErrorOfParts(str(bad))


class GlimpseErrorOfParts(GlimpseError):
    """What ``bad_parts`` yields, as an error."""


def fuzzed(bench: Bench, total: int, rng: random.Random, share: tuple[int, int] = (0, 1)) -> list[Tally]:
    """``total`` mutated inputs, shared out among the readers.

    Args:
        share: (n, of): only every ``of``-th reader from the n-th on, with its inputs.
    """
    folder = bench.folder / "fuzz"
    tallies = []
    known = readers(bench, folder)
    for reader in known[share[0] :: share[1]]:
        status, _, said = in_child(lambda r=reader: bool(r.read(_placed(r, folder, r.sample.read_bytes()))))  # type: ignore[misc]
        assert not status, f"{reader.name}: {said}"  # a reader that refuses everything tests nothing
        tally = Tally(f"mutated input: {reader.name}")
        seeds = [rng.randrange(2**32) for _ in range(-(-total // len(known)))]
        for start in range(0, len(seeds), _BATCH):
            batch = seeds[start : start + _BATCH]
            status, result, said = in_child(lambda r=reader, b=batch: [_tried(r, folder, s) for s in b], _SECONDS)  # type: ignore[misc]
            if result is None:
                tally.notes.append(f"seeds {batch[0]} to {batch[-1]}: ended with {status}: {said[-300:]}")
                tally.lost += 1
                result = ["harmless"] * len(batch)
            for seed, came in zip(batch, result, strict=True):
                tally.tried += 1
                if came in ("harmless", "repaired"):
                    setattr(tally, came, getattr(tally, came) + 1)
                else:
                    tally.lost += 1
                    tally.notes.append(f"seed {seed}: {came}")
        tallies.append(tally)
    return tallies


def _placed(reader: Reader, folder: Path, content: bytes) -> Path:
    path = folder / f"input{reader.sample.suffix}"
    path.write_bytes(content)
    return path


def _tried(reader: Reader, folder: Path, seed: int) -> str:
    """``repaired``: refused by an error of ours; ``harmless``: read; otherwise the error that it ended with."""
    path = _placed(reader, folder, reader.mutate(reader.sample.read_bytes(), random.Random(seed)))
    try:
        reader.read(path)
    except GlimpseError:
        return "repaired"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "harmless"
