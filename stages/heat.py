"""Stage heat: heat maps that are not linear in the text, one of each image and phrase, and their means inside every mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from stages.clip.config import backbone_named, encoder_files, encoder_identity, vectors_of
from stages.contract import Context, Listed, Summary, compute_missing
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.device.precision import Precision
from stages.heat_maps.known import HEAT_MAPS
from stages.heat_maps.registry import Asked, Opening, checked
from stages.heat_maps.table import (
    asked_of,
    map_columns,
    mean_columns,
    no_phrases,
    pair_offsets,
    phrase_columns,
    published_maps,
)
from store.errors import ParameterError
from store.fingerprint import code_digest, file_digest, fingerprint, library_versions
from store.locks import locked
from store.registry import record_digest
from store.table import Table, read_table, require_same, write_table
from store.units import Compute
from store.usable import Lost, require_usable
from store.work import Parts

_UNIT = 8
"""Phrases of a unit for each image of the context's: a part holds those of about as many images."""
_LIBRARIES = {"ftfy", "numpy", "open_clip_torch", "pillow", "regex", "torch"}


class Params(BaseParams):
    """Which maps are made, and the encoder that kinds of CLIP's make them with."""

    maps: Listed[str] = Field([], description="the kinds of heat maps, by name (stages/heat_maps, docs/methods.md)")
    settings: dict[str, dict[str, Any]] = Field({}, description="kind -> its own settings, of kinds that have any")
    model: str = Field("ViT-B-32-quickgelu", description="as in embed_masks")
    precision: Precision = Field("float32", description="as in embed_masks")
    image_size: int = Field(0, ge=0, description="as in embed_masks")

    @field_validator("maps")
    @classmethod
    def _are_known(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(HEAT_MAPS.checked(name) for name in names))

    @model_validator(mode="after")
    def _have_these_settings(self) -> Params:
        try:
            self.chosen()
        except ParameterError as error:
            raise ValueError(str(error)) from None
        return self

    def chosen(self) -> dict[str, BaseParams]:
        """Each kind with its settings.

        Raises:
            ParameterError: settings of a kind that is not among ``maps``, or that it does not have.
        """
        for name in self.settings:
            if name not in self.maps:
                raise ParameterError(f"heat.settings.{name}: {name!r} is not among heat.maps; add it there")
        return {name: checked(name, self.settings.get(name, {})) for name in self.maps}

    def encoder(self) -> dict[str, Any]:
        """What of these loads the encoder, with its weights."""
        return {"model": self.model, "precision": self.precision, "image_size": self.image_size}


class Paths(BasePaths):
    index: Path
    images: Path
    proposals: Path
    parse: Path
    weights: Path
    folder: Path
    heat_maps: Path
    outputs: ClassVar[tuple[str, ...]] = ("heat_maps",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the table of heat maps. A map is kept by itself: other proposals cost the means alone."""
    summary, given = Summary(), params
    if context.profile is not None:  # checked: another encoder of the profile offers what this one does not
        params = _offered(params, summary)
    index, proposals, parse = _tables(paths, params)
    asked, phrase_of = asked_of(index, parse) if params.maps else no_phrases(index)
    summary.read = {"expressions": len(phrase_of), "phrases": len(asked)}
    columns = phrase_columns(asked, phrase_of, pair_offsets(index, proposals))
    attrs: dict[str, Any] = {"parts": {}}
    if params.maps:
        with locked(context.work, context.wait):
            kinds = open_parts(params, paths, context.work)
            columns |= _maps(params, paths, context, summary, asked, index, kinds)
        attrs["parts"] = {name: parts.folder.name for name, parts in kinds.items()}
        summary.warnings += [
            f"heat map {name}: its model was trained on {HEAT_MAPS[name].trained_on}, numbers there are not zero-shot"
            for name in params.maps
            if HEAT_MAPS[name].trained_on
        ]
        with summary.timed("means"):
            columns |= mean_columns(columns, params.maps, index, proposals)
    if any(HEAT_MAPS[name].encodes for name in params.maps):
        attrs["encoder"] = _identity(params, paths)
    made_from = {"index": index.digest, "proposals": proposals.digest, "parse": parse.digest}
    write_table(paths.heat_maps, "heat_maps", columns, given.config(), made_from, losses=summary.losses, **attrs)
    summary.wrote = {f"{name} maps": len(asked) for name in params.maps}
    return summary


def _tables(paths: Paths, params: Params) -> tuple[Table, Table, Table]:
    """What is read of index, proposals and parse, checked to belong together; without any maps next to nothing."""
    wanted: dict[str, Sequence[str] | None] = {"index": None, "proposals": ("image_offsets", "mask")}
    wanted["parse"] = ("sentence", "noun_phrase", "other_phrases", "status")
    if not params.maps:
        wanted = {"index": ("expression_ref", "ref_image"), "proposals": ("image_offsets",), "parse": ()}
    index, proposals, parse = (read_table(getattr(paths, name), name, columns) for name, columns in wanted.items())
    require_same("heat", (proposals, "index", index), (parse, "index", index))
    return index, proposals, parse


def _offered(params: Params, summary: Summary) -> Params:
    """``params`` without the kinds that this kind of encoder does not offer; the record names them."""
    if not params.maps:
        return params
    backbone = backbone_named(params.model).name
    maps = [name for name in params.maps if HEAT_MAPS[name].offered_by(backbone)]
    if left_out := [name for name in params.maps if name not in maps]:
        summary.skipped.append(f"an encoder of kind {backbone} does not offer all heat maps: no {', '.join(left_out)}")
    settings = {name: values for name, values in params.settings.items() if name in maps}
    return params.model_copy(update={"maps": maps, "settings": settings})


def open_parts(params: Params, paths: Paths, work: Path) -> dict[str, Parts]:
    """The parts of each kind.

    Raises:
        ParameterError: a kind that the encoder does not offer. GlimpseError: what a kind's own model lacks.
    """
    kinds = {}
    for name, settings in params.chosen().items():
        kind, config = HEAT_MAPS[name], dict[str, Any](settings=settings.config())
        code = [record_digest(kind), code_digest("stages.heat_maps.compute")]
        libraries = {"numpy", "pillow", *kind.libraries}
        if kind.files is not None:
            config["files"] = {of: file_digest(file) for of, file in kind.files(paths.folder, settings).items()}
        if kind.encodes:
            backbone = backbone_named(params.model)
            if not kind.offered_by(backbone.name):
                raise ParameterError(
                    f"heat.maps: {name} needs an encoder of kind {' or '.join(kind.backbones)}, got one of kind "
                    f"{backbone.name}; choose another encoder, or take {name} out"
                )
            code += [record_digest(backbone), code_digest(*_modules(params))]
            config |= vectors_of(_identity(params, paths))
            libraries |= _LIBRARIES
        kinds[name] = Parts(
            work, name, {**config, "code": fingerprint(code), "libraries": library_versions(*libraries)}
        )
    return kinds


def _model_files(params: Params, paths: Paths, kinds: Mapping[str, Parts]) -> dict[Path, str]:
    """The files of the kinds' own models, with their digests as the keys have them."""
    found = dict[Path, str]()
    for name, settings in params.chosen().items():
        files = HEAT_MAPS[name].files
        if files is not None:
            digests = kinds[name].config["files"]
            found |= {file: digests[of] for of, file in files(paths.folder, settings).items()}
    return found


def _identity(params: Params, paths: Paths) -> dict[str, str]:
    return encoder_identity(params.model, paths.weights, params.precision, params.image_size)


def _modules(params: Params) -> list[str]:
    """The modules that an encoder of both sides is made of, besides those that a kind imports."""
    backbone = backbone_named(params.model)
    return [*backbone.modules("visual"), *backbone.modules("text")]


def _maps(
    params: Params,
    paths: Paths,
    context: Context,
    summary: Summary,
    asked: Sequence[Asked],
    index: Table,
    kinds: Mapping[str, Parts],
) -> dict[str, Any]:
    """The columns of all maps, computed where no part holds them."""
    asked = _located(asked, paths.folder, index, kinds, summary)
    keys = {name: [_key(name, each, index) for each in asked] for name in kinds}
    encodes = any(HEAT_MAPS[name].encodes for name in kinds)
    reads = {paths.index: index.digest}
    if encodes:
        reads |= encoder_files(params.model, paths.weights, _identity(params, paths))
    reads |= _model_files(params, paths, kinds)
    results = compute_missing(
        *(dict(kinds), keys, asked, partial(_load, params, paths, context.batch), context, summary, "phrases"),
        unit=context.unit * _UNIT,
        reads=reads,
        modules=["stages.heat_maps.compute", *(_modules(params) if encodes else [])],
        published=lambda: published_maps(paths.heat_maps, kinds),
    )
    columns = map_columns(results, keys)
    for name in kinds:
        said = zip(columns[f"state.{name}"], columns[f"status.{name}"], strict=True)
        lost = [Lost(state, why, f"{name} map of phrase {row}") for row, (state, why) in enumerate(said) if state]
        remedy = "put the files there and run again, or see docs/methods.md for what the kind needs"
        require_usable(summary, f"{name} maps", len(asked), lost, remedy)
        summary.skipped += [f"{each.where}: {each.reason}" for each in lost]
    return columns


def _located(
    asked: Sequence[Asked], folder: Path, index: Table, kinds: Mapping[str, Parts], summary: Summary
) -> list[Asked]:
    """``asked`` with the files of the kinds that read files; what is wrong with these is a reason of the record."""
    found = list(asked)
    for name in kinds:
        locate = HEAT_MAPS[name].locate
        if locate is not None:
            sources, problems = locate(folder, index, found)
            pairs = zip(found, sources, strict=True)
            found = [replace(each, sources={**each.sources, name: source}) for each, source in pairs]
            summary.skipped += problems
    return found


def _key(kind: str, asked: Asked, index: Table) -> str:
    """What stands for a map: the image's pixels, the phrase with its others, the file where it is read from one."""
    texts = [asked.sentence, asked.phrase, list(asked.others)]
    return fingerprint([index["image_digest"][asked.image], *texts, list(asked.sources.get(kind, ()))])


def _load(params: Params, paths: Paths, batch: int | None, device: str) -> Compute:
    from stages.heat_maps.compute import mapper

    encoder, shared = {**params.encoder(), "weights": paths.weights}, dict[str, Any]()
    openings = {
        name: Opening(settings, paths.folder, encoder, device, batch, shared)
        for name, settings in params.chosen().items()
    }
    return mapper(openings, read_table(paths.index, "index", ("image_name", "image_digest")), paths.images)
