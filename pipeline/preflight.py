"""Before hours of work: what a profile still needs on this machine, and the step that gets it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.project import LoadedProject
from stages.datasets.index import name_below_root
from stages.datasets.refer import read_refer
from store.errors import GlimpseError

DOCS = "docs/data.md"
BYTES_PER_IMAGE = 600_000
"""Disk room that an image takes: 60 proposals x 2 vectors x 512 floats, in parts and in the output, and the rest beside it."""
_SHOWN = 3
_GENERATORS = {
    "freesolo": ("mask proposal weights", "FreeSOLO"),
    "coco": ("mask proposals, COCO result JSON", "Proposals of another source"),
    "instances": ("not read by this source, but DVC wants it: name any path", "Proposals of another source"),
}


def check(project: LoadedProject) -> list[str]:
    """Everything that is missing, one line each with the remedy; empty when the run can start."""
    faults, named = _annotations(project)
    return list(dict.fromkeys([*faults, *_images(project, named), *_models(project), *_room(project, len(named))]))


def _annotations(project: LoadedProject) -> tuple[list[str], set[str]]:
    """What is missing of the annotations, and the names of the images that those at hand need."""
    values = project.values
    faults: list[str] = []
    named: set[str] = set()
    for name, choice in values.index.datasets.items():
        folder = project.path(values.index.annotations, choice.folder or name)
        files = (folder / f"refs({choice.split_by}).p", folder / "instances.json")
        lost = [file for file in files if not file.is_file()]
        faults += [f"{file}: annotations of {choice.folder or name}; {DOCS}, section 'Annotations'" for file in lost]
        if lost:
            continue
        try:
            data = read_refer(
                project.path(values.index.annotations), choice.folder or name, choice.split_by, choice.splits
            )
        except GlimpseError as error:
            faults.append(f"{error} ({DOCS}, section 'Annotations')")
            continue
        named |= {name_below_root(image, choice.images) for image in data.images if not image.status}
    return faults, named


def _images(project: LoadedProject, named: set[str]) -> Iterator[str]:
    folder = project.path(project.values.images)
    absent = sorted(name for name in named if not (folder / name).is_file())
    if absent:
        first = ", ".join(absent[:_SHOWN])
        yield f"{folder}: {len(absent):,} images that the annotations name, the first {first}; {DOCS}, section 'Images'"
    elif not folder.is_dir():
        yield f"{folder}: the images that the annotations name; {DOCS}, section 'Images'"


def _models(project: LoadedProject) -> Iterator[str]:
    values = project.values
    generator = values.propose.input
    unread = values.propose.source == "instances" and project.path(generator).exists()
    needed: list[tuple[str, str, Path | str]] = [
        (*_GENERATORS[values.propose.source], generator),
        ("CLIP architecture", "CLIP", values.clip.model),
        ("CLIP weights", "CLIP", values.clip.weights),
    ]
    for label, section, file in needed[1:] if unread else needed:
        if not project.path(file).is_file():
            yield f"{project.path(file)}: {label}; {DOCS}, section '{section}'"
    try:
        from stages.text.model import spacy_digest

        spacy_digest(values.text.spacy_model)
    except GlimpseError as error:
        yield f"{error} ({DOCS}, section 'spaCy')"


def _room(project: LoadedProject, images: int) -> Iterator[str]:
    folder = project.path(project.values.data)
    while not folder.exists():
        folder = folder.parent
    need, free = images * BYTES_PER_IMAGE, shutil.disk_usage(folder).free
    if free < need:
        yield f"{folder}: about {need:,} bytes of disk room for {images:,} images, {free:,} are free; make room"
