"""Stage embed_masks: the global feature of every mask for each k, and its local feature, raw, once per mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.contract import Context, Listed, Results, Summary, compute_missing
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.device.memory import rows_for, shrinking
from stages.device.precision import Precision
from stages.device.prefetch import ahead
from store.errors import DataError, PassingError
from store.fingerprint import code_digest, file_digest
from store.images import read_image
from store.segmentation import decode
from store.table import Table, read_table, require_same
from store.units import Compute, Result
from store.vectors import write_vectors
from store.work import Item, Parts, locked

LOCAL = "local"
Antialias = Literal["auto", "always", "never"]


class Params(BaseParams):
    """The CLIP model and how images enter it (Yu, Seo and Son, CVPR 2023, sec. 3.2)."""

    model: str = Field("ViT-B-32-quickgelu", description="open_clip architecture, or a JSON file in open_clip's form")
    preprocess: Literal["reference", "clip"] = Field(
        "reference", description="as the released code, or as CLIP was trained"
    )
    antialias: Antialias = Field("auto", description="of tensor resizes; auto: as preprocess says")
    short_side: int = Field(800, ge=32, description="short side of the image from which all views are cut, pixels")
    fill: Literal["reference", "mean"] = Field("reference", description="colour outside the mask in the local view")
    masked_blocks: Listed[int] = Field(
        [3], min_length=1, description="k: how many last blocks are masked, all to be stored"
    )
    precision: Precision = Field("float32", description="in which CLIP computes; only float32 is exact")

    @property
    def antialiased(self) -> bool:
        """Whether tensor resizes are antialiased."""
        return self.antialias == "always" or (self.antialias == "auto" and self.preprocess == "clip")

    def views(self) -> dict[str, Any]:
        """How images are to be seen: arguments of `MaskEncoder` and `MaskedClip`."""
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
    """Write the mask features. Local features and the global ones of each k are kinds of their own: a new k costs that k."""
    summary = Summary()
    index, proposals = _tables(paths)
    offsets = proposals["image_offsets"]
    images = np.flatnonzero(np.diff(offsets)).tolist()
    summary.read = {"images": len(images), "proposals": len(proposals["mask"])}
    with locked(context.work):
        kinds = open_parts(params, paths, context.work)
        keys = {kind: [_input_key(kind, index, proposals, image) for image in images] for kind in kinds}
        load = partial(embedder, params, paths, context.batch)
        results = compute_missing(kinds, keys, images, load, context, summary, "images")
        with summary.timed("assemble"):
            _assemble(params, paths, results, keys, proposals, summary)
    return summary


def _tables(paths: Paths) -> tuple[Table, Table]:
    """What is read of index and proposals, checked to belong together."""
    index = read_table(paths.index, "index", ("image_name", "image_digest", "image_size"))
    proposals = read_table(paths.proposals, "proposals", ("image_offsets", "mask", "box"))
    require_same("embed_masks", (proposals, "index", index))
    return index, proposals


def open_parts(params: Params, paths: Paths, work: Path) -> dict[str, Parts]:
    """The parts of each kind: ``local`` and one ``global.k<k>`` per k."""
    model = Path(params.model)
    shared = {
        **params.model_dump(mode="json", exclude={"masked_blocks", "fill"}),
        "antialias": params.antialiased,
        "model": file_digest(model) if params.model.endswith(".json") else params.model,
        "weights": file_digest(paths.weights),
        "code": code_digest("stages.embed_masks"),
    }
    ks = sorted(set(params.masked_blocks))
    local = Parts(work, LOCAL, {**shared, "fill": params.fill})
    return {LOCAL: local, **{f"global.k{k}": Parts(work, f"global.k{k}", shared) for k in ks}}


def _input_key(kind: str, index: Table, proposals: Table, image: int) -> str:
    """What stands for an image with its proposals: its pixels, its masks and, for local features, their boxes."""
    rows = slice(*proposals["image_offsets"][image : image + 2])
    digest = hashlib.sha256(index["image_digest"][image].encode())
    for counts in proposals["mask"][rows]:
        digest.update(len(counts).to_bytes(8, "little") + counts)
    if kind == LOCAL:
        digest.update(np.ascontiguousarray(proposals["box"][rows]).data)
    return digest.hexdigest()


def embedder(params: Params, paths: Paths, batch: int | None, device: str) -> Compute:
    """What computes units of images, given as rows of the index.

    Images share forward passes on a GPU. On a CPU that gains nothing from some 40 masks an image on, and image by image
    the bytes of a feature do not depend on which other images were missing.
    """
    from stages.clip.weights import load_clip
    from stages.visual.mask_encoder import Encoded, MaskEncoder, Scene
    from stages.visual.preprocess import degenerate_boxes

    model, _ = load_clip(params.model, paths.weights, device=device, precision=params.precision)
    encoder = MaskEncoder(model, **params.views(), batch=rows_for(device, batch))
    index, proposals = _tables(paths)
    offsets = proposals["image_offsets"]

    def read(image: int) -> Scene | DataError:
        name, (height, width) = index["image_name"][image], index["image_size"][image]
        rows = slice(*offsets[image : image + 2])
        try:
            pixels = encoder.shrink(read_image(paths.images, name, index["image_digest"][image]))
        except DataError as error:
            return error
        return pixels, decode(proposals["mask"][rows], height, width), proposals["box"][rows]

    def lost(image: int, missing: tuple[str, ...], error: DataError) -> Result:
        count = int(offsets[image + 1] - offsets[image])
        nothing = _item(np.zeros((count, encoder.dim), np.float32), np.ones(count, np.bool_), str(error))
        return Result(dict.fromkeys(missing, nothing), [str(error)], isinstance(error, PassingError))

    def items(image: int, found: Encoded) -> dict[str, Item]:
        own = {
            f"global.k{k}": _item(f, ~found.reaches_grid, "mask empty on the patch grid") for k, f in found.by_k.items()
        }
        if found.local is not None:
            boxes = proposals["box"][slice(*offsets[image : image + 2])]
            degenerate = degenerate_boxes(boxes, *index["image_size"][image])
            own[LOCAL] = _item(found.local, degenerate, "zero-size box, widened to a pixel")
        return own

    def embed(images: Sequence[int], missing: tuple[str, ...]) -> list[Result]:
        results: dict[int, Result] = {}
        good: list[int] = []

        def scenes() -> Iterator[Scene]:
            for image, scene in zip(images, ahead(read, images), strict=True):
                if isinstance(scene, DataError):
                    results[image] = lost(image, missing, scene)
                else:
                    good.append(image)
                    yield scene

        ks = [int(kind.removeprefix("global.k")) for kind in missing if kind != LOCAL]
        together = 1 if device == "cpu" else None
        encoded = encoder.encode_images(scenes(), ks, local=LOCAL in missing, together=together)
        results |= {image: Result(items(image, found)) for image, found in zip(good, encoded, strict=True)}
        return [results[image] for image in images]

    return shrinking(embed, encoder, device)


def _item(features: NDArray[np.float32], degenerate: NDArray[np.bool_], reason: str) -> Item:
    return {
        "feature": features,
        "degenerate": degenerate,
        "reason": np.frombuffer((reason if degenerate.any() else "").encode(), np.uint8),
    }


def _assemble(
    params: Params, paths: Paths, results: Results, keys: dict[str, list[str]], proposals: Table, summary: Summary
) -> None:
    from stages.clip.weights import score_rule_of

    rows, images = len(proposals["mask"]), range(len(keys[LOCAL]))
    width = results.get(LOCAL, keys[LOCAL][0])["feature"].shape[1] if images else 1
    reasons: list[list[str]] = []
    for image in images:
        items = [results.get(kind, keys[kind][image]) for kind in results.kinds]
        for row in range(len(items[0]["degenerate"])):
            found = dict.fromkeys(i["reason"].tobytes().decode() for i in items if i["degenerate"][row])
            reasons.append(list(found))

    def blocks(kind: str) -> Iterator[NDArray[np.float32]]:
        return (results.get(kind, key)["feature"] for key in keys[kind])

    write_vectors(
        paths.mask_features,
        "mask_features",
        rows,
        width,
        {kind: blocks(kind) for kind in results.kinds},
        {"status": ["; ".join(found) for found in reasons]},
        params.config(),
        {"proposals": proposals.digest},
        score_rule=score_rule_of(params.model),
    )
    summary.wrote = dict.fromkeys(results.kinds, rows)
    summary.skipped += [f"proposal {row}: {'; '.join(found)}" for row, found in enumerate(reasons) if found]
