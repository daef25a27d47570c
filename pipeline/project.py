"""The params file of a profile as typed values: what dvc.yaml passes to the stages, checked as a whole."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arguments import checked
from pipeline.registry import DEFAULT_PARAMS
from stages import embed_masks, embed_text, index, parse, propose, report, variants
from stages.ablations import TriedFilters
from stages.clip.config import architecture_of
from stages.device.precision import Precision
from stages.score import Bootstrap
from stages.scoring.rules.registry import Rules
from stages.scoring.table import Scoring
from stages.sweep import Grid
from store.errors import ParameterError
from store.registry import load_extensions

EXTENSIONS = Path("extensions")
PARAMS_FILES = ("params.yaml", "demo/params.yaml")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Index(index.Params):
    annotations: Path = Field(description="folder of the data sets' annotations")


class Propose(propose.Params):
    input: Path = Field(description="what the source reads; one that reads nothing does not open it, but DVC wants it")


class Clip(Section):
    """The CLIP that embeds masks and texts."""

    model: Annotated[str, embed_masks.Params.model_fields["model"]]
    weights: Path
    precision: Annotated[Precision, embed_masks.Params.model_fields["precision"]]


class EmbedMasks(embed_masks.Params):
    model: None = None  # type: ignore[assignment]  # stands in `clip`
    precision: None = None  # type: ignore[assignment]  # likewise


class EmbedText(embed_text.Params):
    model: None = None  # type: ignore[assignment]  # stands in `clip`
    precision: None = None  # type: ignore[assignment]  # likewise


class Project(Section):
    """A params file. ``root`` is the way from its folder to the project's; all other paths start at the project's, also
    ``profile``, the params file's own. ``extensions`` is the folder of your own additions (``store.registry``)."""

    root: str
    profile: Path
    data: Path
    work: Path
    images: Path
    metrics: Path
    extensions: Path = EXTENSIONS
    index: Index
    propose: Propose
    clip: Clip
    embed_masks: EmbedMasks
    parse: parse.Params
    embed_text: EmbedText
    variants: variants.Params
    score: Scoring
    bootstrap: Bootstrap
    rules: Rules
    ablations: TriedFilters
    sweep: Grid
    report: report.Params


class LoadedProject(Section):
    """A project and where it lies. ``path`` turns a path of the params file into one from here."""

    file: Path
    values: Project

    @property
    def folder(self) -> Path:
        return Path(os.path.normpath(self.file.parent / self.values.root))

    def path(self, *parts: Path | str) -> Path:
        return self.folder.joinpath(*parts)

    def table(self, name: str) -> Path:
        """Path of a stage's output in the data folder."""
        return self.path(self.values.data, name)


def load_project(file: Path) -> LoadedProject:
    """Read and check a params file; first load its extensions, whose names it may use.

    Raises:
        ParameterError: no such file, no YAML, an unknown key (with the nearest known one) or a value out of range; or a
            file of the extensions cannot be loaded.
    """
    try:
        values: Any = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ParameterError(
            f"{file}: expected a params file ({' or '.join(PARAMS_FILES)}), found none; name it with --params"
        ) from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{file}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ParameterError(f"{file}: expected sections, got {type(values).__name__}")
    root, extensions = values.get("root"), values.get("extensions", str(EXTENSIONS))
    if isinstance(root, str) and isinstance(extensions, str):  # else `checked` says what is wrong with them
        load_extensions(file.parent / root / extensions)
    return LoadedProject(file=file, values=checked(Project, values, str(file)))


def profile_line(project: LoadedProject) -> str:
    """Which profile a command is about: its params file, its data folder and its encoder. First line of every table."""
    clip = project.values.clip
    encoder = f"{architecture_of(clip.model)}, {clip.weights.name}, {clip.precision}"
    return f"profile {project.file}; data {project.values.data}; encoder {encoder}"


def with_params(project: LoadedProject, command: str) -> str:
    """``command`` as it is typed for this profile."""
    return command if project.file == DEFAULT_PARAMS else f"{command} --params {shlex.quote(str(project.file))}"


def repro(project: LoadedProject) -> str:
    """The command that brings a profile up to date."""
    folder = project.file.parent
    return "dvc repro" if folder == Path() else f"dvc repro {shlex.quote(f'{folder}/dvc.yaml')}"
