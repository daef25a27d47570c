"""Mutated inputs for every reader of what others wrote: each ends in a value or in one of Glimpse's own errors, in time."""

from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    from pipeline.params_file import read_params
    from stages.clip.state_dict import read_state_dict
    from stages.datasets.files import read_json
    from stages.proposals.forms.documents import document_rows
    from stages.proposals.forms.given import read_value
    from store.document import read_document
    from store.images import load_image
    from store.seal import check_seal
    from store.table import read_table
    from store.untrusted import load_refs
    from tests.helpers.profile import ROOT

    folder.mkdir(parents=True, exist_ok=True)
    refer, kept = bench.folder / "refer", bench.kept
    masks = folder / "masks.json"
    masks.write_text(
        '[{"image_id": 1, "score": 0.5, "segmentation": {"size": [4, 6], "counts": "07N4"}}, {"bbox": [1, 2]}]'
    )
    weights = folder / "weights.safetensors"
    shutil.copyfile(ROOT / "demo/models/refshapes_freesolo.safetensors", weights)
    weights.write_bytes(weights.read_bytes()[:60_000])
    pictures, refs = sorted((refer / "images").rglob("*.png")), sorted(refer.rglob("*.p"))
    found = [
        Reader("a table", kept / "data/overlap.h5", lambda path: read_table(path, "overlap")),
        Reader("a document", kept / "data/grid.json", lambda path: read_document(path, "sweep"), json_mutated),
        Reader("a page", kept / "data/report.html", check_seal),
        Reader("annotations", sorted(refer.rglob("instances.json"))[0], lambda p: read_json(p, "x"), json_mutated),
        Reader("proposals", masks, lambda path: list(document_rows(read_value(path), "x", "y")), json_mutated),
        Reader("a params file", bench.profile, read_params),
        Reader("weights", weights, read_state_dict),
        Reader("a picture", pictures[0], load_image),
        Reader("refs", refs[0], load_refs),
        Reader("refs of another structure", refs[0], load_refs, _refs_mutated),
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


def fuzzed(bench: Bench, total: int, rng: random.Random) -> list[Tally]:
    """``total`` mutated inputs, shared out among the readers."""
    folder = bench.folder / "fuzz"
    tallies = []
    known = readers(bench, folder)
    for reader in known:
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


def _tried(reader: Reader, folder: Path, seed: int) -> str:
    """``repaired``: refused by an error of ours; ``harmless``: read; otherwise the error that it ended with."""
    path = folder / f"input{reader.sample.suffix}"
    path.write_bytes(reader.mutate(reader.sample.read_bytes(), random.Random(seed)))
    try:
        reader.read(path)
    except GlimpseError:
        return "repaired"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "harmless"
