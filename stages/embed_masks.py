"""Stage embed_masks: the vector of every mask by every view, raw, once per mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from stages.clip.config import backbone_named, encoder_files, encoder_identity, vectors_of
from stages.contract import Context, Listed, Results, Summary, compute_missing
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.device.precision import Precision
from stages.views.known import VIEWS
from stages.views.registry import labels_of
from stages.visual.published import feature_columns, published_features
from store.fingerprint import code_digest, fingerprint, library_versions
from store.locks import locked
from store.registry import record_digest
from store.table import Table, read_table, require_same
from store.units import Compute
from store.usable import Lost, require_usable
from store.vectors import write_vectors
from store.work import Parts

Antialias = Literal["auto", "always", "never"]


class Params(BaseParams):
    """The CLIP model and how images enter it (Yu, Seo and Son, CVPR 2023, sec. 3.2)."""

    model: str = Field(
        "ViT-B-32-quickgelu", description="open_clip architecture, a JSON model config, or a model's folder"
    )
    preprocess: Literal["reference", "clip"] = Field(
        "reference", description="as the released code, or as CLIP was trained"
    )
    antialias: Antialias = Field("auto", description="of tensor resizes; auto: as preprocess says")
    short_side: int = Field(800, ge=32, description="short side of the image from which all views are cut, pixels")
    fill: Literal["reference", "mean"] = Field("reference", description="colour outside the mask in the local view")
    views: Listed[str] = Field(
        ["global", "local"], min_length=1, description="the views of a mask, by name (stages/views, docs/methods.md)"
    )
    masked_blocks: Listed[int] = Field(
        [3], min_length=1, description="view global: k, how many last blocks are masked, all to be stored"
    )
    settings: dict[str, dict[str, Any]] = Field({}, description="view -> its own settings, of views that have any")
    precision: Precision = Field("float32", description="in which CLIP computes; only float32 is exact")
    image_size: int = Field(
        0, ge=0, description="side of the encoder's input, pixels: positions are interpolated; 0: the model's own"
    )

    @field_validator("views")
    @classmethod
    def _are_known(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(VIEWS.checked(name) for name in names))

    @property
    def antialiased(self) -> bool:
        """Whether tensor resizes are antialiased."""
        return self.antialias == "always" or (self.antialias == "auto" and self.preprocess == "clip")

    def seen(self) -> dict[str, Any]:
        """How images enter the encoder: arguments of `MaskEncoder` and `MaskedClip`."""
        return {
            "preprocess": self.preprocess,
            "short_side": self.short_side,
            "fill": self.fill,
            "antialias": self.antialiased,
        }


class Paths(BasePaths):
    index: Path
    images: Path
    proposals: Path
    weights: Path
    mask_features: Path
    outputs: ClassVar[tuple[str, ...]] = ("mask_features",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the mask features. Each label of a view is a kind of part of its own: a new view or k costs only itself."""
    summary, asked = Summary(), params
    if context.profile is not None:  # checked: another encoder of the profile offers what this one does not
        params = _offered(params, summary)
    index, proposals = _tables(paths)
    offsets = proposals["image_offsets"]
    images = np.flatnonzero(np.diff(offsets)).tolist()
    summary.read = {"images": len(images), "proposals": len(proposals["mask"])}
    with locked(context.work, context.wait):
        kinds = open_parts(params, paths, context.work)
        boxes = {label: view.reads_boxes for label, (view, _) in labels_of(params.views, params).items()}
        keys = {label: [_input_key(index, proposals, image, boxes[label]) for image in images] for label in kinds}
        load = partial(_load, params, paths, context.batch)
        reads = {paths.index: index.digest, paths.proposals: proposals.digest}
        reads |= encoder_files(params.model, paths.weights, next(iter(kinds.values())).config)
        results = compute_missing(
            *(kinds, keys, images, load, context, summary, "images"),
            reads=reads,
            modules=_modules(params),
            published=lambda: published_features(paths.mask_features, kinds, boxes),
        )
        with summary.timed("assemble"):
            columns, lost = feature_columns(results, keys, boxes)
            _write(asked, paths, results, keys, columns, lost, proposals, kinds, summary)
    return summary


def _tables(paths: Paths) -> tuple[Table, Table]:
    """What is read of index and proposals, checked to belong together."""
    index = read_table(paths.index, "index", ("image_name", "image_digest", "image_size"))
    proposals = read_table(paths.proposals, "proposals", ("image_offsets", "mask", "box"))
    require_same("embed_masks", (proposals, "index", index))
    return index, proposals


def _offered(params: Params, summary: Summary) -> Params:
    """``params`` without the views and settings that this kind of encoder does not offer; the record names them."""
    backbone = backbone_named(params.model).name
    views = [name for name in params.views if VIEWS[name].offered_by(backbone)]
    left_out = [name for name in params.views if name not in views]
    settings = {
        name: dict(VIEWS[name].restricted(values, backbone))
        for name, values in params.settings.items()
        if name in views
    }
    said = list(left_out)
    said += [f"{name} but for {values}" for name, values in settings.items() if values != params.settings[name]]
    if not said:
        return params
    summary.skipped.append(f"an encoder of kind {backbone} does not offer all views and settings: no {', '.join(said)}")
    return params.model_copy(update={"views": views, "settings": settings})


def open_parts(params: Params, paths: Paths, work: Path) -> dict[str, Parts]:
    """The parts of each label.

    Raises:
        ParameterError: a view that the model does not offer.
    """
    shared = {
        **vectors_of(encoder_identity(params.model, paths.weights, params.precision, params.image_size)),
        "preprocess": params.preprocess,
        "antialias": params.antialiased,
        "short_side": params.short_side,
    }
    backbone = backbone_named(params.model)
    compute = [record_digest(backbone), code_digest(*_modules(params))]
    libraries = library_versions("numpy", "open_clip_torch", "pillow", "torch", *backbone.libraries)
    kinds = {}
    for label, (view, arguments) in labels_of(params.views, params).items():
        view.check_backbone(backbone.name)
        code = fingerprint([*compute, record_digest(view)])
        kinds[label] = Parts(
            work, label, {**shared, **arguments, "view": view.name, "code": code, "libraries": libraries}
        )
    return kinds


def _modules(params: Params) -> list[str]:
    """The modules that compute what all views share."""
    return ["stages.visual.compute", *backbone_named(params.model).modules("visual")]


def _input_key(index: Table, proposals: Table, image: int, with_boxes: bool) -> str:
    """What stands for an image with its proposals: its pixels, its masks and, where a view reads them, their boxes."""
    rows = slice(*proposals["image_offsets"][image : image + 2])
    digest = hashlib.sha256(index["image_digest"][image].encode())
    for counts in proposals["mask"][rows]:
        digest.update(len(counts).to_bytes(8, "little") + counts)
    if with_boxes:
        digest.update(np.ascontiguousarray(proposals["box"][rows]).data)
    return digest.hexdigest()


def _load(params: Params, paths: Paths, batch: int | None, device: str) -> Compute:
    from stages.visual.compute import embedder, open_encoder

    encoder = open_encoder(
        params.model, paths.weights, device, params.precision, batch, params.image_size, **params.seen()
    )
    labels = {label: (view.name, given) for label, (view, given) in labels_of(params.views, params).items()}
    return embedder(encoder, labels, *_tables(paths), paths.images, device)


def _write(
    params: Params,
    paths: Paths,
    results: Results,
    keys: dict[str, list[str]],
    columns: dict[str, Any],
    lost: list[Lost],
    proposals: Table,
    kinds: dict[str, Parts],
    summary: Summary,
) -> None:
    rows, first = len(proposals["mask"]), results.kinds[0]
    width = results.get(first, keys[first][0])["feature"].shape[1] if keys[first] else 1
    require_usable(summary, "proposals", rows, lost, "put the images back and run again, or check the weights")

    def blocks(kind: str) -> Iterator[NDArray[np.float32]]:
        return (results.get(kind, key)["feature"] for key in keys[kind])

    backbone = backbone_named(params.model)
    write_vectors(
        paths.mask_features,
        "mask_features",
        rows,
        width,
        {f"view.{kind}": blocks(kind) for kind in results.kinds},
        columns,
        params.config(),
        {"proposals": proposals.digest},
        score_rule=backbone.score_rule,
        encoder=encoder_identity(params.model, paths.weights, params.precision, params.image_size),
        images=params.seen(),
        parts={kind: parts.folder.name for kind, parts in kinds.items()},
        losses=summary.losses,
    )
    summary.wrote = dict.fromkeys(results.kinds, rows)
    summary.skipped += [f"proposal {row}: {status}" for row, status in enumerate(columns["status"]) if status]
