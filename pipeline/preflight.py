"""Before hours of work: what a profile still needs on this machine, and the step that gets it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from pipeline.project import LoadedProject
from store.errors import GlimpseError

DOCS = "docs/data.md"
_FEATURE_BYTES = 40_000
"""Disk room per image that a run takes, with room to spare: 40 proposals x 2 vectors x 512 floats, twice (parts, output)."""


def check(project: LoadedProject) -> list[str]:
    """Everything that is missing, one line each with the remedy; empty when the run can start."""
    return [*_data(project), *_models(project), *_room(project)]


def _data(project: LoadedProject) -> Iterator[str]:
    values = project.values
    for name, choice in values.index.datasets.items():
        folder = project.path(values.index.refer, choice.folder or name)
        for file in (folder / f"refs({choice.split_by}).p", folder / "instances.json"):
            if not file.is_file():
                yield f"{file}: annotations of {name}; {DOCS}, section 'Annotations'"
    images = project.path(values.images)
    if not images.is_dir() or not any(images.iterdir()):
        yield f"{images}: the images that the annotations name; {DOCS}, section 'Images'"


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
    count = sum(1 for _ in images.iterdir()) if images.is_dir() else 0
    need, free = count * _FEATURE_BYTES * 10, shutil.disk_usage(folder).free
    if free < need:
        yield f"{folder}: about {need:,} bytes of disk room for {count:,} images, {free:,} are free; make room"
