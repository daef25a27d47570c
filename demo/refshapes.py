"""Write the RefShapes benchmark: `python -m demo.refshapes --out FOLDER [--images-per-split 100] [--seed 0]`.

The files are those of a real REFER data set: FOLDER/images/*.png, and for each of four families that share the images
FOLDER/<family>/refs(synth).p and FOLDER/<family>/instances.json. `refshapes` may use position words (like RefCOCO),
`refshapes+` looks only (like RefCOCO+), `refshapesg` has one long relational sentence per object (like RefCOCOg), `refshapeso`
one that counts, where objects can be counted ("second circle from the left").
`testA` asks for rounded shapes, `testB` for angular ones. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from demo.captions import Expression, appearance, ordinal, position, relation
from demo.outlines import segmentation
from demo.scenes import ANGULAR, ROUNDED, SHAPES, Scene, draw_scene, evaluation_rng
from store.errors import DataError

FAMILIES = ("refshapes", "refshapes+", "refshapesg")
COUNTED = "refshapeso"
"""The family that only some scenes have something for; it draws from a generator of its own, and changes no other."""
SPLIT_BY = "synth"
SPLITS = {"val": SHAPES, "testA": ROUNDED, "testB": ANGULAR}  # and the shapes asked for
FIRST_IMAGE_ID = 1001
MAX_REFS, MAX_SENTENCES = 3, 3

_Writer = Callable[[np.random.Generator, Scene, int], Expression | None]


@dataclass(frozen=True)
class _Drawn:
    """A scene, its generator as drawing left it, and what is costly to make of it: its PNG file, its objects' outlines."""

    rng: np.random.Generator
    scene: Scene
    png: bytes
    segmentations: list[Any]


@dataclass
class _Family:
    """What one family's two files will hold."""

    refs: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    sentences: int = 0


def write_benchmark(out: Path, images_per_split: int = 100, seed: int = 0, processes: int = 1) -> dict[str, int]:
    """Write the benchmark into the new folder `out`; return the number of refs per family.

    Its scenes are drawn in so many `processes`; how many changes no byte.

    Raises:
        DataError: `out` has files already.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: expected a new or empty folder to write RefShapes into; remove it or name another")
    (out / "images").mkdir(parents=True, exist_ok=True)
    families = {name: _Family() for name in (*FAMILIES, COUNTED)}
    with closing(_scenes(seed, processes)) as scenes:
        _write_splits(out, images_per_split, seed, scenes, families)
    for name, family in families.items():
        _write_family(out / name, family)
    return {name: len(family.refs) for name, family in families.items()}


def _scenes(seed: int, processes: int) -> Generator[_Drawn]:
    """Every evaluation scene in turn."""
    if processes == 1:
        yield from (_drawn(index, seed) for index in count())
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:  # a fork copies the locks of other threads
        ahead = deque(pool.submit(_drawn, index, seed) for index in range(4 * processes))
        try:
            for index in count(len(ahead)):
                yield ahead.popleft().result()
                ahead.append(pool.submit(_drawn, index, seed))
        finally:
            pool.shutdown(cancel_futures=True)


def _drawn(index: int, seed: int) -> _Drawn:
    rng, png = evaluation_rng(index, seed), BytesIO()
    scene = draw_scene(rng)
    scene.image.save(png, "PNG")
    return _Drawn(rng, scene, png.getvalue(), [segmentation(item.mask) for item in scene.objects])


def _write_splits(
    out: Path, images_per_split: int, seed: int, scenes: Iterator[_Drawn], families: dict[str, _Family]
) -> None:
    """Write the images of all splits, and add what is asked about them to `families`."""
    image_id = FIRST_IMAGE_ID
    for split, shapes in SPLITS.items():
        accepted = 0
        while accepted < images_per_split:
            drawn = next(scenes)
            rng, scene = drawn.rng, drawn.scene
            targets = {name: _described_objects(rng, scene, name, shapes) for name in FAMILIES}
            if not all(targets.values()):
                continue  # a scene of the benchmark has something to ask in every family
            image, annotations = _image_entry(scene, image_id), _annotations(drawn, image_id)
            (out / "images" / image["file_name"]).write_bytes(drawn.png)
            in_g = split == "val" or accepted < (images_per_split + 1) // 2
            for name in FAMILIES if in_g else FAMILIES[:2]:
                split_name = "test" if name == "refshapesg" and split != "val" else split
                _add(families[name], image, annotations, targets[name], split_name)
            if counted := _counted_objects(np.random.default_rng([seed, image_id]), scene, shapes):
                _add(families[COUNTED], image, annotations, counted, split)
            image_id, accepted = image_id + 1, accepted + 1


def _described_objects(
    rng: np.random.Generator, scene: Scene, family: str, shapes: tuple[str, ...]
) -> list[tuple[int, list[str]]]:
    """Up to MAX_REFS objects of the given shapes, each with its raw sentences."""
    eligible = [i for i, item in enumerate(scene.objects) if item.shape in shapes]
    described = ((i, _sentences(rng, scene, i, family)) for i in (eligible[k] for k in rng.permutation(len(eligible))))
    return list(islice(((i, sentences) for i, sentences in described if sentences), int(rng.integers(2, MAX_REFS + 1))))


def _counted_objects(rng: np.random.Generator, scene: Scene, shapes: tuple[str, ...]) -> list[tuple[int, list[str]]]:
    """The objects of the given shapes that can be counted off, each with its raw sentence."""
    eligible = [i for i, item in enumerate(scene.objects) if item.shape in shapes]
    found = ((i, ordinal(rng, scene, i)) for i in eligible)
    return [(i, [_as_typed(rng, expression.sentence)]) for i, expression in found if expression is not None][:MAX_REFS]


def _sentences(rng: np.random.Generator, scene: Scene, target: int, family: str) -> list[str]:
    """One to MAX_SENTENCES different raw sentences about the target in a family's manner; none if it cannot be described."""
    wanted = 1 if family == "refshapesg" else int(rng.integers(1, MAX_SENTENCES + 1))
    sentences: dict[str, None] = {}
    for _ in range(2 * wanted):
        writer: _Writer = relation if family == "refshapesg" else appearance
        if family == "refshapes" and rng.random() < 0.65:
            writer = position
        expression = writer(rng, scene, target)
        if expression is not None and len(sentences) < wanted:
            sentences[expression.sentence] = None
    return [_as_typed(rng, sentence) for sentence in sentences]


def _as_typed(rng: np.random.Generator, sentence: str) -> str:
    """The sentence as someone might type it, with or without capitals and a full stop."""
    chance = rng.random()
    if chance < 0.2:
        return sentence.capitalize() + "."
    if chance < 0.3:
        return sentence.capitalize()
    if chance < 0.35:
        return sentence.upper()
    return sentence + ("." if chance < 0.45 else "")


def _image_entry(scene: Scene, image_id: int) -> dict[str, Any]:
    name = f"RefShapes_{image_id:012d}.png"
    return {"id": image_id, "file_name": name, "width": scene.image.width, "height": scene.image.height, "license": 1}


def _annotations(drawn: _Drawn, image_id: int) -> list[dict[str, Any]]:
    """COCO annotations of all objects of a scene: polygons, or RLE where an object has a hole."""
    return [
        {
            "id": 10 * image_id + number,
            "image_id": image_id,
            "category_id": SHAPES.index(item.shape) + 1,
            "segmentation": segments,
            "area": int(np.count_nonzero(item.mask)),
            "bbox": [item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]],
            "iscrowd": 0,
        }
        for number, (item, segments) in enumerate(zip(drawn.scene.objects, drawn.segmentations, strict=True))
    ]


def _add(
    family: _Family,
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    targets: list[tuple[int, list[str]]],
    split: str,
) -> None:
    """Append an image, its annotations and the refs of its described objects."""
    family.images.append(image)
    family.annotations.extend(annotations)
    for number, raw_sentences in targets:
        annotation = annotations[number]
        sentences = []
        for raw in raw_sentences:
            sent = raw.lower().rstrip(".")
            sentences.append({"tokens": sent.split(), "raw": raw, "sent_id": family.sentences, "sent": sent})
            family.sentences += 1
        family.refs.append(
            {
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "file_name": image["file_name"].replace(".png", f"_{annotation['id']}.png"),
                "ann_id": annotation["id"],
                "ref_id": len(family.refs),
                "image_id": image["id"],
                "split": split,
                "sentences": sentences,
                "category_id": annotation["category_id"],
            }
        )


def _write_family(folder: Path, family: _Family) -> None:
    folder.mkdir()
    kinds = {shape: "rounded" if shape in ROUNDED else "angular" for shape in SHAPES}
    instances = {
        "info": {"description": "RefShapes, drawn by demo/refshapes.py", "version": "1"},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": family.images,
        "annotations": family.annotations,
        "categories": [{"supercategory": kinds[name], "id": i + 1, "name": name} for i, name in enumerate(SHAPES)],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    refs = json.loads(json.dumps(family.refs))  # pickle writes a text that is one object twice in another way than two
    (folder / f"refs({SPLIT_BY}).p").write_bytes(pickle.dumps(refs, protocol=2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.refshapes", description="Write the RefShapes benchmark.")
    parser.add_argument("--out", type=Path, required=True, help="new folder to write into")
    parser.add_argument("--images-per-split", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        counts = write_benchmark(options.out, options.images_per_split, options.seed, os.cpu_count() or 1)
    except DataError as error:
        parser.exit(1, f"{error}\n")
    for name, refs in counts.items():
        print(f"{options.out / name}: {refs} refs")


if __name__ == "__main__":
    main()
