"""What DVC takes end to end: a run with nothing to do, and a changed alpha on a project of the full benchmark's size."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.harness import Result
from pipeline.registry import FILES
from stages.parse import spatial_columns
from stages.text.relations import NO_SPATIAL
from store.ragged import offsets_of
from store.segmentation import areas, encode
from store.table import Table, write_table
from store.vectors import write_vectors

ROOT = Path(__file__).resolve().parent.parent
PROPOSALS, HEIGHT, WIDTH = 60, 480, 640
ENCODER_NAME = "vit_b32"  # the main one of params.yaml
ENCODER = {"architecture": "none", "standard": "", "backbone": "vit", "model": "none", "weights": "0" * 64} | {
    "precision": "float32"
}
FEATURES = 64  # wide: what alpha changes never reads the vectors
SPLITS = {  # data set -> split -> images, sentences (reference counts of RefCOCO unc, RefCOCO+ unc, RefCOCOg umd and google)
    "refcoco": {"val": (1500, 10_834), "testA": (750, 5_657), "testB": (750, 5_095)},
    "refcoco+": {"val": (1500, 10_758), "testA": (750, 5_726), "testB": (750, 4_889)},
    "refcocog": {"val": (1300, 4_896), "test": (2600, 9_602)},
    "refcocog_google": {"val": (4650, 9_536)},
}
FIRST = {
    "refcoco": 0,
    "refcoco+": 0,
    "refcocog": 3000,
    "refcocog_google": 6900,
}  # RefCOCO and RefCOCO+ share their images
RERUN = ("score", "ablations", "report")
STAGES = ("index", "propose", "embed_masks", "parse", "embed_text", "overlap", "heat", "pair", "variants")


def noop_repro(repeats: int = 5) -> Result:
    """``dvc repro`` of the finished embedded benchmark."""
    _dvc(ROOT, "repro", "demo/dvc.yaml")
    said, times = "", []
    for _ in range(repeats):
        start = time.perf_counter()
        said = _dvc(ROOT, "repro", "demo/dvc.yaml")
        times.append(time.perf_counter() - start)
    if "up to date" not in said:
        raise RuntimeError(f"expected nothing to do, got: {said}")
    return Result("noop_repro", None, statistics.median(times), at_most=2.0, note="dvc repro demo/dvc.yaml")


def alpha_repro(repeats: int = 3) -> Result:
    """alpha changed, then ``dvc repro``: score, ablations and report of nine splits, 66,993 expressions x 60 proposals."""
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        build_project(project)
        _dvc(project, "repro")
        times = []
        for run in range(repeats):
            _set(project, alpha=0.5 + 0.01 * run)
            start = time.perf_counter()
            said = _dvc(project, "repro")
            times.append(time.perf_counter() - start)
            ran = re.findall(r"Running stage '(\w+)'", said)
            if ran != list(RERUN):
                raise RuntimeError(f"expected {', '.join(RERUN)} to run, got: {said}")
        within = {name: _seconds(project, name) for name in RERUN}
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in within.items())
    note = f"synthetic features; of the last run: {parts}, the rest DVC and the start of three processes"
    return Result("alpha_repro", None, statistics.median(times), at_most=10.0, note=note)


def build_project(folder: Path) -> None:
    """A project of the full benchmark's size whose outputs up to the pair table are synthetic and up to date for DVC."""
    for name in ("pipeline", "stages", "store", "extensions", "models", "maps", "masks", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "cache", "tmp"))
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    values = yaml.safe_load((folder / "params.yaml").read_text())
    known = values["index"]["datasets"]
    values["index"]["datasets"] = {name: known[name] for name in SPLITS}
    values["variants"] |= {"switches": [], "sources": [], "templates": []}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for path in (values["propose"]["input"], values["encoders"][values["encoder"]]["weights"]):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"never read here")
    (folder / values["index"]["annotations"]).mkdir(parents=True)
    _tables(folder / values["data"], folder / values["images"], values)
    _run(folder, sys.executable, "-m", "pipeline", "doctor", "--dvc", "--params", "params.yaml")
    # It finds no maps to make: a table without any.
    _run(folder, sys.executable, "-m", "pipeline", "run", "heat", "--profile", "params.yaml")
    _run(folder, sys.executable, "-m", "pipeline", "run", "pair", *_pair_words(values))
    _run(folder, sys.executable, "-m", "pipeline", "run", "variants", "--profile", "params.yaml", "--work",
         values["work"], "--pairs", _file(values, "pairs"), "--variants", f"{values['data']}/variants")  # fmt: skip
    _run(folder, "git", "init", "-q")
    _dvc(folder, "commit", "-f", "doctor", *STAGES)


def _tables(data: Path, images: Path, values: dict[str, Any]) -> None:
    """Every output up to the pair table but that one; the same mask sizes everywhere, random overlaps and features."""
    rng = np.random.default_rng(0)
    groups = [(name, split) for name, splits in SPLITS.items() for split in splits]
    ref_image, ref_group, sentences = [], [], []
    for name, splits in SPLITS.items():
        first = FIRST[name]
        for split, (count, total) in splits.items():
            ref_image += range(first, first + count)
            ref_group += [groups.index((name, split))] * count
            sentences += np.diff(np.linspace(0, total, count + 1).astype(int)).tolist()
            first += count
    order = np.lexsort((ref_group, ref_image))
    ref_image, ref_group, sentences = (np.array(x)[order] for x in (ref_image, ref_group, sentences))
    refs, number = len(ref_image), int(ref_image.max()) + 1
    digest = _pictures(images, number)
    expression_ref = np.repeat(np.arange(refs), sentences)
    expressions = len(expression_ref)
    truth, *masks = encode(_discs(rng, 1 + PROPOSALS))
    index = write_table(
        data / "index.h5",
        "index",
        {
            "image_name": [_name(i) for i in range(number)],
            "image_id": np.arange(number),
            "image_size": np.full((number, 2), (HEIGHT, WIDTH), np.int32),
            "image_digest": [digest] * number,
            "image_status": [""] * number,
            "instance_offsets": np.zeros(number + 1, np.int64),
            "instance_mask": [],
            "ref_id": np.arange(refs),
            "ref_image": ref_image,
            "ref_group": ref_group.astype(np.int32),
            "ref_category": ["thing"] * refs,
            "ref_mask": [truth] * refs,
            "ref_status": [""] * refs,
            "expression_id": np.arange(expressions),
            "expression_ref": expression_ref,
            "expression_raw": [f"the thing number {i % 997}" for i in range(expressions)],
            "expression_status": [""] * expressions,
        },
        {},
        {},
        groups=groups,
        origins={},
    )
    total = number * PROPOSALS
    proposals = write_table(
        data / "proposals.h5",
        "proposals",
        {
            "image_offsets": np.arange(number + 1) * PROPOSALS,
            "mask": masks * number,
            "box": np.tile(np.array([[100, 100, 200, 200]], np.float32), (total, 1)),
            "score": rng.random(total, np.float32),
            "area": np.tile(areas(masks, HEIGHT, WIDTH), number),
            "status": [""] * number,
            "state": [""] * number,
        },
        {},
        {"index": index.digest},
    )
    _texts_and_features(data, index, proposals, expressions, rng)
    intersection = rng.integers(0, 20_000, refs * PROPOSALS)
    write_table(
        data / "overlap.h5",
        "overlap",
        {
            "ref_offsets": offsets_of(np.full(refs, PROPOSALS)),
            "intersection": intersection,
            "union": intersection + rng.integers(1, 20_000, refs * PROPOSALS),
            "ref_area": np.full(refs, 10_000),
        },
        {},
        {"index": index.digest, "proposals": proposals.digest},
    )


def _texts_and_features(data: Path, index: Table, proposals: Table, expressions: int, rng: np.random.Generator) -> None:
    strings = [f"the thing number {i}" for i in range(997)]
    which = np.arange(expressions) % 997
    columns = {name: ["[]"] * expressions for name in ("other_phrases", "position_words", "relation_words")}
    texts = [strings[i] for i in which]
    columns |= {"sentence": texts, "noun_phrase": texts, "status": [""] * expressions}
    columns |= spatial_columns([NO_SPATIAL._asdict()] * expressions)
    parse = write_table(data / "parse.h5", "parse", columns, {}, {"index": index.digest})
    rows = len(proposals["area"])

    def vectors(count: int) -> list[np.ndarray]:
        return [rng.standard_normal((min(100_000, count - i), FEATURES), np.float32) for i in range(0, count, 100_000)]

    write_vectors(
        data / FILES["text_features"].format(encoder=ENCODER_NAME),
        "text_features",
        997,
        FEATURES,
        {"feature": vectors(997)},
        {
            "string": strings,
            "truncated": np.zeros(997, bool),
            "sentence_string": which,
            "phrase_string": which[::-1].copy(),
            "other_offsets": np.zeros(expressions + 1, np.int64),
            "other_string": np.zeros(0, np.int64),
            "class_string": np.zeros(0, np.int64),
        },
        {},
        {"parse": parse.digest},
        encoder=ENCODER,
    )
    write_vectors(
        data / FILES["mask_features"].format(encoder=ENCODER_NAME),
        "mask_features",
        rows,
        FEATURES,
        {"view.local": vectors(rows), "view.global.k3": vectors(rows)},
        {"status": [""] * rows},
        {},
        {"proposals": proposals.digest},
        score_rule="cosine",
        encoder=ENCODER,
    )


def _pictures(images: Path, number: int) -> str:
    """One JPEG under ``number`` names (hard links); its digest."""
    images.mkdir(parents=True)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    (images / _name(0)).write_bytes(buffer.getvalue())
    for i in range(1, number):
        os.link(images / _name(0), images / _name(i))
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _name(image: int) -> str:
    return f"COCO_train2014_{image:012d}.jpg"


def _discs(rng: np.random.Generator, count: int) -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    centres = zip(rng.integers(60, HEIGHT - 60, count), rng.integers(60, WIDTH - 60, count), strict=True)
    return np.stack([(rows - y) ** 2 + (columns - x) ** 2 < rng.integers(20, 60) ** 2 for y, x in centres])


def _pair_words(values: dict[str, Any]) -> list[str]:
    names = ("mask_features", "text_features", "index", "proposals", "overlap", "parse", "pairs")
    words = [word for name in names for word in (f"--{name}", _file(values, name))]
    return [*words, "--profile", values["profile"], "--work", values["work"]]


def _file(values: dict[str, Any], field: str) -> str:
    return f"{values['data']}/{FILES[field].format(encoder=values['encoder'])}"


def _seconds(project: Path, stage: str) -> float:
    """What a stage took, by its own record."""
    return float(json.loads((project / f".work/full/records/{stage}.json").read_text())["total_seconds"])


def _set(project: Path, **score: float) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["score"] |= score
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def _dvc(folder: Path, *words: str) -> str:
    return _run(folder, sys.executable, "-m", "dvc", *words)


def _run(folder: Path, *words: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": ""}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr
