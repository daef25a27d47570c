"""The params file of a profile as typed values: what dvc.yaml passes to the stages, checked as a whole."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.arguments import checked
from pipeline.params_file import read_params
from pipeline.registry import DEFAULT_PARAMS, FILES
from stages import embed_masks, embed_text, heat, index, parse, propose, report, variants
from stages.ablations import Tried
from stages.clip.config import architecture_of, backbone_named, model_at, model_form
from stages.device.precision import Precision
from stages.heat_maps.known import HEAT_MAPS
from stages.heat_maps.registry import HeatMapKind
from stages.scoring.rules.registry import Rules
from stages.scoring.table import Bootstrap, Scoring
from stages.sweep import Grid
from stages.views.known import VIEWS
from stages.views.registry import View
from store.document import RUN
from store.errors import ParameterError, nearest
from store.registry import load_extensions

EXTENSIONS = Path("extensions")
MODELS = Path("models")
MAPS = Path("maps")
MASKS = Path("masks")
OTHER_DISK = "dvc cache dir --local FOLDER; dvc config --local cache.type symlink"
"""What puts all outputs on another disk (docs/sharing.md)."""
_ENCODER_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]*")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Index(index.Params):
    annotations: Path = Field(description="folder of the data sets' annotations")


class Propose(propose.Params):
    input: Path = Field(description="what the source reads; one that reads nothing does not open it, but DVC wants it")


class Encoder(Section):
    """A CLIP that embeds masks and texts."""

    model: Annotated[str, embed_masks.Params.model_fields["model"]]
    weights: Path = Field(description="a weights file, or the folder that ``model`` names")
    precision: Annotated[Precision, embed_masks.Params.model_fields["precision"]] = "float32"
    image_size: Annotated[int, embed_masks.Params.model_fields["image_size"]] = 0


class EmbedMasks(embed_masks.Params):
    model: None = None  # type: ignore[assignment]  # stands in `encoders`
    precision: None = None  # type: ignore[assignment]  # likewise
    image_size: None = None  # type: ignore[assignment]  # likewise


class EmbedText(embed_text.Params):
    model: None = None  # type: ignore[assignment]  # stands in `encoders`
    precision: None = None  # type: ignore[assignment]  # likewise
    image_size: None = None  # type: ignore[assignment]  # likewise


class Heat(heat.Params):
    folder: Path = Field(MAPS, description="what kinds imported, clip_seg and group_vit read; DVC wants a folder")
    model: None = None  # type: ignore[assignment]  # stands in `encoders`
    precision: None = None  # type: ignore[assignment]  # likewise
    image_size: None = None  # type: ignore[assignment]  # likewise


class Variants(variants.Params):
    folder: Path = Field(
        MASKS, description="where the files of sources lie; DVC wants a folder, also where there are none"
    )


class Project(Section):
    """A params file. ``root`` is the way from its folder to the project's; all other paths start at the project's, also
    ``profile``, the params file's own. ``extensions`` is the folder of your own additions (``store.registry``), ``models`` that
    of model configs, which DVC watches. ``encoder`` names the main one of ``encoders``: sweeps, variants, ablations and the
    report's pictures are about it."""

    root: str
    profile: Path
    data: Path
    work: Path
    images: Path
    metrics: Path
    summary: Path
    extensions: Path = EXTENSIONS
    models: Path = MODELS
    index: Index
    propose: Propose
    encoder: str
    encoders: dict[str, Encoder] = Field(min_length=1)
    embed_masks: EmbedMasks
    parse: parse.Params
    embed_text: EmbedText
    heat: Heat = Heat()
    variants: Variants
    score: Scoring
    bootstrap: Bootstrap
    rules: Rules
    ablations: Tried
    sweep: Grid
    report: report.Params
    made_by: str = Field("", description="the command that makes the outputs, where that is not `dvc repro`")

    @model_validator(mode="after")
    def _encoders_can_be_told_apart(self) -> Project:
        if self.encoder not in self.encoders:
            raise ValueError(f"encoder: no encoder {self.encoder!r}; {nearest(self.encoder, self.encoders)}")
        for name in self.encoders:
            if not _ENCODER_NAME.fullmatch(name) or name in (*self.index.datasets, RUN):
                raise ValueError(
                    f"encoders.{name}: expected a name of letters, digits, '_' and '-' that is no data set's and not {RUN!r}, "
                    "since files, metrics and stages of DVC are named by it"
                )
        return self

    @property
    def main_encoder(self) -> Encoder:
        """The entry of the main encoder."""
        return self.encoders[self.encoder]


class LoadedProject(Section):
    """A project and where it lies. ``path`` turns a path of the params file into one from here."""

    file: Path
    values: Project

    @property
    def folder(self) -> Path:
        return Path(os.path.normpath(self.file.parent / self.values.root))

    def path(self, *parts: Path | str) -> Path:
        return self.folder.joinpath(*parts)

    def pairs(self, encoder: str = "") -> Path:
        """The pair table of an encoder, by default the main one."""
        return self.table(FILES["pairs"].format(encoder=encoder or self.values.encoder))

    def table(self, name: str) -> Path:
        """Path of a stage's output in the data folder."""
        return self.path(self.values.data, name)


def load_project(file: Path) -> LoadedProject:
    """Read and check a params file; first load its extensions, whose names it may use.

    Raises:
        ParameterError: no such file, no YAML, an unknown key (with the nearest known one) or a value out of range; or a
            file of the extensions cannot be loaded.
    """
    values = read_params(file)
    root, extensions = values.get("root"), values.get("extensions", str(EXTENSIONS))
    if isinstance(root, str) and isinstance(extensions, str):  # else `checked` says what is wrong with them
        load_extensions(file.parent / root / extensions)
    project = LoadedProject(file=file, values=checked(Project, values, str(file)))
    _require_watched_configs(project)
    _require_offered(project)
    return project


def link_outside(project: LoadedProject) -> tuple[str, str] | None:
    """What is wrong, and what to do, where ``data`` is a link out of the project, in which DVC keeps its outputs; else None."""
    data, root = project.path(project.values.data), project.folder.resolve()
    if not data.absolute().is_relative_to(project.folder.absolute()) or data.resolve().is_relative_to(root):
        return None
    return (
        f"{data}: expected a folder inside the project, since DVC keeps no outputs elsewhere, got a link to {data.resolve()}",
        f"make it a plain folder, and put DVC's cache on the other disk: {OTHER_DISK}",
    )


def _require_watched_configs(project: LoadedProject) -> None:
    """Raise a ParameterError for a model config outside the folder that DVC watches: a change of it would go unseen."""
    models = project.path(project.values.models).resolve()
    for name, encoder in project.values.encoders.items():
        path = project.path(encoder.model).resolve()
        watched = models in path.parents or path == project.path(encoder.weights).resolve()
        if not watched and model_form(model_path(project, encoder.model)) != "name":
            raise ParameterError(
                f"{project.file}: encoders.{name}.model: expected a file in {project.values.models} (`models`), the folder of "
                f"model configs that DVC watches, or the folder that `weights` names, got {encoder.model}; put it there, or "
                "name its folder as `models`"
            )


def _require_offered(project: LoadedProject) -> None:
    """Raise a ParameterError for a view or kind of heat map that no encoder of the profile offers."""
    values = project.values
    asked: list[tuple[str, str, View | HeatMapKind]] = [
        *(("embed_masks.views", "view", VIEWS[name]) for name in values.embed_masks.views),
        *(("heat.maps", "kind of map", HEAT_MAPS[name]) for name in values.heat.maps),
    ]
    asked = [each for each in asked if each[2].backbones]
    if not asked:
        return
    models = [model_path(project, encoder.model) for encoder in values.encoders.values()]
    if any(model.endswith(".json") and not Path(model).is_file() for model in models):
        return  # preflight says so
    kinds = {backbone_named(model).name for model in models}
    for where, what, record in asked:
        if not any(record.offered_by(kind) for kind in kinds):
            raise ParameterError(
                f"{project.file}: {where}: {record.name} needs an encoder of kind {' or '.join(record.backbones)}, the "
                f"profile has {', '.join(sorted(kinds))}; add such an encoder, or take the {what} out"
            )


def model_path(project: LoadedProject, model: str) -> str:
    """What loads an encoder's architecture from here: the path of its file or folder, or its name."""
    return model_at(model, project.folder)


def profile_line(project: LoadedProject) -> str:
    """Which profile a command is about: its params file, its data folder and its encoder. First line of every table."""
    values, main = project.values, project.values.main_encoder
    encoder = f"{architecture_of(main.model)}, {main.weights.name}, {main.precision}"
    others = "".join(f", {name}" for name in values.encoders if name != values.encoder)
    return f"profile {project.file}; data {values.data}; encoder {encoder}{others and f' (also{others[1:]})'}"


def with_params(project: LoadedProject, command: str) -> str:
    """``command`` as it is typed for this profile."""
    return command if project.file == DEFAULT_PARAMS else f"{command} --params {shlex.quote(str(project.file))}"


def repro(project: LoadedProject) -> str:
    """The command that brings a profile up to date."""
    if project.values.made_by:
        return project.values.made_by
    folder = project.file.parent
    return "dvc repro" if folder == Path() else f"dvc repro {shlex.quote(f'{folder}/dvc.yaml')}"
