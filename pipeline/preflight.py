"""Before hours of work: what a profile still needs on this machine, and the step that gets it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.project import LoadedProject
from stages.datasets.refer import read_refer
from store.errors import GlimpseError

DOCS = "docs/data.md"
BYTES_PER_IMAGE = 600_000
"""Disk room that an image takes: 60 proposals x 2 vectors x 512 floats, in parts and in the output, and the rest beside it."""
MOST_IMAGES = 25_000
"""No more images than this have refs in all of RefCOCO, RefCOCO+ and RefCOCOg together (train2014 holds 82,783)."""
_SHOWN = 3


def check(project: LoadedProject) -> list[str]:
    """Everything that is missing, one line each with the remedy; empty when the run can start."""
    return list(dict.fromkeys([*_data(project), *_models(project), *_room(project)]))


def _data(project: LoadedProject) -> Iterator[str]:
    values = project.values
    absent: set[str] = set()
    for name, choice in values.index.datasets.items():
        folder = project.path(values.index.refer, choice.folder or name)
        files = (folder / f"refs({choice.split_by}).p", folder / "instances.json")
        lost = [file for file in files if not file.is_file()]
        for file in lost:
            yield f"{file}: annotations of {choice.folder or name}; {DOCS}, section 'Annotations'"
        if not lost:
            data = read_refer(project.path(values.index.refer), choice.folder or name, choice.split_by, choice.splits)
            absent |= {i.file_name for i in data.images if not i.status and not _image(project, i.file_name).is_file()}
    folder = project.path(values.images)
    if absent:
        first = ", ".join(sorted(absent)[:_SHOWN])
        yield f"{folder}: {len(absent):,} images that the annotations name, the first {first}; {DOCS}, section 'Images'"
    elif not folder.is_dir():
        yield f"{folder}: the images that the annotations name; {DOCS}, section 'Images'"


def _image(project: LoadedProject, name: str) -> Path:
    return project.path(project.values.images, name)


def _models(project: LoadedProject) -> Iterator[str]:
    values = project.values
    for label, file, section in (
        ("mask proposal weights", values.propose.weights, "FreeSOLO"),
        ("CLIP architecture", values.clip.model, "CLIP"),
        ("CLIP weights", values.clip.weights, "CLIP"),
    ):
        if not project.path(file).is_file():
            yield f"{project.path(file)}: {label}; {DOCS}, section '{section}'"
    try:
        from stages.text.model import spacy_digest

        spacy_digest(values.text.spacy_model)
    except GlimpseError as error:
        yield f"{error} ({DOCS}, section 'spaCy')"


def _room(project: LoadedProject) -> Iterator[str]:
    folder = project.path(project.values.data)
    while not folder.exists():
        folder = folder.parent
    images = project.path(project.values.images)
    count = min(sum(1 for _ in images.iterdir()) if images.is_dir() else 0, MOST_IMAGES)
    need, free = count * BYTES_PER_IMAGE, shutil.disk_usage(folder).free
    if free < need:
        yield f"{folder}: about {need:,} bytes of disk room for {count:,} images, {free:,} are free; make room"
