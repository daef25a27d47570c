"""Before hours of work: what a profile needs on this machine, whether it is there, and the command that gets it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.project import OTHER_DISK, LoadedProject, link_outside, model_path, with_params
from pipeline.runner import Execution
from pipeline.setup.estimates import Counts, Estimate, estimates
from pipeline.setup.sources import SOURCES, Kind, command, find, image_source, published
from stages.clip.config import model_config, read_document, tokenizer_of
from stages.clip.forms import weights_file
from stages.datasets.choice import annotation_files, read
from stages.datasets.registry import KINDS
from stages.heat_maps.imported import INDEX as MAPS_INDEX
from stages.heat_maps.known import HEAT_MAPS
from stages.index import name_below_root
from stages.proposals.registry import SOURCES as PROPOSAL_SOURCES
from stages.variants import read_nothing
from store.errors import GlimpseError, WeightsError, extra
from store.memory import memory_of_machine

DOCS = "docs/data.md"
_SHOWN = 3
_ALTERNATIVE = f"put yours there ({DOCS}; RefShapes: make demo)"


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a run needs.

    Attributes:
        where: its path or name.
        what: what it is, and how it stands.
        remedy: what gets it; "" when it is there.
        file: the file itself, where it is one.
    """

    where: str
    what: str
    remedy: str = ""
    file: Path | None = None

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.what)))


def check(project: LoadedProject) -> list[str]:
    """Everything that is missing, one line each with the remedy; empty when the run can start."""
    return examined(project)[0]


def examined(project: LoadedProject) -> tuple[list[str], list[Estimate]]:
    """As ``check``; and what each stage will take, [] where there are no annotations yet."""
    found, counts = _needs(project)
    lines = [f"{need}; {need.remedy}" for need in found if need.remedy]
    return lines, _estimates(project, counts) if counts.images else []


def needs(project: LoadedProject) -> list[Need]:
    """Everything that a run needs, each once: data, weights, models, programs, memory, disk room."""
    return _needs(project)[0]


def _needs(project: LoadedProject) -> tuple[list[Need], Counts]:
    annotations, named, counts = _annotations(project)
    rest = (*_images(project, named), *_models(project), *_programs(), *_room(project, counts))
    return list(dict.fromkeys([*annotations, *rest])), counts


def _annotations(project: LoadedProject) -> tuple[list[Need], dict[str, str], Counts]:
    """The annotations; the names of the images that those at hand need, each with the data set in whose files it is; and how
    much they hold."""
    values = project.values
    needs: list[Need] = []
    named: dict[str, str] = {}
    refs = expressions = size = 0
    for name, choice in values.index.datasets.items():
        root = project.path(values.index.annotations)
        files = annotation_files(root, name, choice)
        alternative = f"put yours there: {KINDS[choice.kind].layout} ({DOCS}; RefShapes: make demo)"
        remedy = _fetching(project, "data", choice.folder or name, alternative)
        if KINDS[choice.kind].pictures:
            remedy = f"{with_params(project, f'glimpse fetch data {name} --from FOLDER')}, or {alternative}"
        what = f"annotations of {choice.folder or name}"
        needs += [Need(str(file), what, "" if file.is_file() else remedy, file) for file in files]
        if not all(file.is_file() for file in files):
            continue
        try:
            data = read(root, name, choice)
        except GlimpseError as error:
            needs.append(Need("", str(error), f"move it away, then: {remedy}"))
            continue
        own = name if KINDS[choice.kind].pictures else ""
        named |= {name_below_root(image, choice.images): own for image in data.images if not image.status}
        refs += len(data.refs)
        expressions += sum(len(ref.sentences) for ref in data.refs)
        size = max(size, sum(file.stat().st_size for file in files))
    return needs, named, Counts(len(named), refs, expressions, size)


def _images(project: LoadedProject, named: dict[str, str]) -> Iterator[Need]:
    """The images (name -> the data set that has them in its own files, "" for none), by the command that gets them."""
    folder = project.path(project.values.images)
    groups: dict[str, list[str]] = {}
    for name in sorted(named):
        groups.setdefault(named[name] or image_source(SOURCES, name), []).append(name)
    if not groups and not folder.is_dir():
        chosen = {choice.folder or name for name, choice in project.values.index.datasets.items()}
        wanted = {source.images for source in SOURCES if source.kind == "data" and source.name in chosen}
        remedy = ", ".join(_fetching(project, "data", name) for name in sorted(wanted)) or _ALTERNATIVE
        yield Need(str(folder), "the images that the annotations name", remedy)
    for source, names in groups.items():
        absent = [name for name in names if not (folder / name).is_file()]
        first = ", ".join(absent[:_SHOWN])
        if absent:
            what = f"{len(absent):,} images that the annotations name, the first {first}"
            packed = bool(source) and source in named.values()
            remedy = (
                with_params(project, f"glimpse fetch data {source}") if packed else _fetching(project, "data", source)
            )
            yield Need(str(folder), what, remedy)
        else:
            yield Need(str(folder), f"all {len(names):,} images that the annotations name")


def _models(project: LoadedProject) -> Iterator[Need]:
    values = project.values
    generator = (
        PROPOSAL_SOURCES[values.propose.source].input or "not read by this source, but DVC wants it: name any path"
    )
    weights = [(f"weights of encoder {name}", encoder.weights) for name, encoder in values.encoders.items()]
    for what, file in ((generator, values.propose.input), *weights):
        path = project.path(file)
        known = published(project, path)
        remedy = command(project, known[0]) if known else _ALTERNATIVE
        yield Need(str(path), what, "" if _there(project, path) else remedy, path)
    for name, encoder in values.encoders.items():
        if encoder.model.endswith(".json"):
            path = project.path(encoder.model)
            remedy = "" if path.is_file() else f"write one ({DOCS}, section 'CLIP')"
            yield Need(str(path), f"architecture of encoder {name}", remedy, path)
        yield from _tokenizer(project, name)
    yield from _map_models(project)
    if "imported" in values.heat.maps:
        path = project.path(values.heat.folder, MAPS_INDEX)
        remedy = "" if path.is_file() else "write it (docs/methods.md, imported), or take imported out of heat.maps"
        yield Need(str(path), "index of imported heat maps", remedy, path)
    for name in values.variants.sources:
        if name not in read_nothing():
            path = project.path(values.variants.folder, name)
            remedy = (
                ""
                if path.exists()
                else f"put it there ({DOCS}, section 'Masks from anywhere'), or correct variants.sources"
            )
            yield Need(str(path), "masks that variants.sources names", remedy, path)
    name = values.parse.spacy_model
    package = next((source for source in SOURCES if source.package and source.package[0] == name), None)
    try:
        from stages.text.spacy_model import spacy_digest

        spacy_digest(name)
        yield Need(f"spaCy model {name}", "installed")
    except GlimpseError as error:
        if package:
            yield Need(f"spaCy model {name}", "is not installed", command(project, package))
        else:
            yield Need("", str(error), f"{DOCS}, section 'spaCy'")


def _map_models(project: LoadedProject) -> Iterator[Need]:
    """The models of kinds of heat maps that have one of their own."""
    folder = project.path(project.values.heat.folder)
    for name, settings in project.values.heat.chosen().items():
        files = HEAT_MAPS[name].files
        if files is None:
            continue
        try:
            found = files(folder, settings)
        except GlimpseError as error:
            yield Need("", str(error), f"docs/methods.md, section {name}")
            continue
        for what, file in found.items():
            yield Need(str(file), f"{what} of the model of heat map {name}", "", file)


def _tokenizer(project: LoadedProject, name: str) -> Iterator[Need]:
    """The tokenizer of an encoder that has one of its own."""
    encoder = project.values.encoders[name]
    model, what = model_path(project, encoder.model), f"tokenizer of encoder {name}"
    try:
        config = model_config(read_document(model))
    except GlimpseError:
        return  # said of the architecture
    try:
        files = tokenizer_of(config, model, project.path(encoder.weights))
    except GlimpseError as error:
        yield Need("", str(error), f"{DOCS}, section 'Other encoders'")
        return
    if files:
        there = find_spec("tokenizers") is not None
        yield Need(str(files[0]), what, "" if there else f"{extra('siglip')}: its library reads it")


def _there(project: LoadedProject, path: Path) -> bool:
    """Whether a stage can read the file. What a source of proposals takes that is no network only has to be there: it may be a
    folder, and where none is read DVC wants it all the same."""
    propose = project.values.propose
    proposals = path == project.path(propose.input) and not PROPOSAL_SOURCES[propose.source].input_is_weights
    return path.exists() if proposals else _weights(path).is_file()


def _weights(path: Path) -> Path:
    """The weights file that a path names, which may be a model's folder."""
    try:
        return weights_file(path)
    except WeightsError:
        return path


def _programs() -> Iterator[Need]:
    there = find_spec("dvc") is not None
    yield Need("DVC", "installed" if there else "is not installed", "" if there else "make env")


def _room(project: LoadedProject, counts: Counts) -> Iterator[Need]:
    """Disk and memory: what the run takes, by the stage that takes most, and what is there."""
    folder = project.path(project.values.data)
    if outside := link_outside(project):
        yield Need("", *outside)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if not counts.images:
        yield Need(
            str(folder), f"disk room: {free:,} bytes are free; how much is needed shows once annotations are there"
        )
        return
    stages = _estimates(project, counts)
    need, most = sum(stage.disk for stage in stages), max(stages, key=lambda stage: stage.disk)
    what = f"about {need:,} bytes of disk room for {counts.images:,} images (most for {most.stage}), {free:,} are free"
    yield Need(str(folder), what, f"make room, or put DVC's cache on another disk: {OTHER_DISK}" if free < need else "")
    there, most = memory_of_machine(), max(stages, key=lambda stage: stage.memory)
    what = f"about {most.memory:,} bytes at the most (stage {most.stage}), the machine has {there:,}"
    lacking = 0 < there < most.memory
    yield Need(
        "memory", what, "choose fewer data sets, fewer views or smaller max_proposals, or another machine" * lacking
    )


def _estimates(project: LoadedProject, counts: Counts) -> list[Estimate]:
    values = project.values
    weights = {name: _size(_weights(project.path(encoder.weights))) for name, encoder in values.encoders.items()}
    generator = _size(project.path(values.propose.input))
    cores, workers = len(os.sched_getaffinity(0)), Execution.from_environment().workers
    return estimates(values, counts, weights, generator, workers, _widths(project), cores)


def _widths(project: LoadedProject) -> dict[str, int]:
    """Encoder -> numbers of a vector, of those whose config can be read."""
    found = {}
    for name, encoder in project.values.encoders.items():
        try:
            width = model_config(read_document(model_path(project, encoder.model))).get("embed_dim")
        except GlimpseError:
            continue  # said of the architecture
        if isinstance(width, int):
            found[name] = width
    return found


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _fetching(project: LoadedProject, kind: Kind, name: str, alternative: str = _ALTERNATIVE) -> str:
    """The command that gets a source; for a name that is none of ours, what else to do."""
    known = any((source.kind, source.name) == (kind, name) for source in SOURCES)
    return command(project, find(kind, name)) if known else alternative
