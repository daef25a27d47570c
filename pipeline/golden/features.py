"""CLIP's features against the release: what it reads of an image, global and local features, text vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.golden.check import Check, check, compare, largest, relative_l2, sampled, unequal
from pipeline.golden.folder import Absent, Arrays, Folder
from stages.proposals.decode import mask_boxes
from stages.visual.encoder import MaskedClip
from stages.visual.masked_resnet import MaskedResNet
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, crop_windows

VECTORS = 1e-4  # relative L2; the release in float32 and in float64 part by 4e-6
PIXELS = 1e-5  # normalised, their standard deviation is about 1
CROPS = 1e-4  # two resizes after another, each rounds its coordinates in float32
K = 3
CPU = torch.device("cpu")
REFERENCE = Preprocess(IMAGENET_MEAN, IMAGENET_STD, antialias=False, short_side=800, fill="reference")
MODELS = {
    "vit": ("ViT-B-32-quickgelu", "clip_vit_b32"),
    "rn50": ("RN50-quickgelu", "clip_rn50"),
}
TITLES = {"vit": "ViT-B/32", "rn50": "RN50"}


@dataclass(frozen=True)
class Rows:
    """The masks of an image that features are compared on: the release's proposals, then the hand-made ones."""

    image: Image.Image
    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    proposals: int


def rebuilt(folder: Folder, mode: str) -> open_clip.CLIP:
    """The model with the folder's weights."""
    architecture, seed = MODELS[mode]
    model = open_clip.CLIP(**open_clip.get_model_config(architecture))
    model.load_state_dict(folder.weights.fill_state_dict(model.state_dict(), folder.weights.SEEDS[seed]))
    return model.eval()


def rows_of(folder: Folder, name: str) -> Rows:
    """The release's masks and boxes; hand-made masks where the ViT file has them."""
    image, proposals = folder.image(name), folder.arrays(f"freesolo_{name}.npz")
    masks, boxes = proposals.masks("pred_masks"), proposals["pred_boxes"]
    try:
        extra = folder.arrays(f"clip_vit_b32_{name}.npz").masks("hand_masks")
    except Absent:
        return Rows(image, masks, boxes, len(masks))
    hand_boxes = mask_boxes(torch.from_numpy(extra), "reference").numpy()
    return Rows(image, np.concatenate([masks, extra]), np.concatenate([boxes, hand_boxes]), len(masks))


def check_pixels(name: str, rows: Rows, golden: Arrays) -> Iterator[Check]:
    """What CLIP reads: views of the image, masks on the grid, boxes, crops."""
    part = f"CLIP input {name}"
    prepared = REFERENCE.prepare(rows.image, CPU)
    source = REFERENCE.source_view(prepared)
    views = {"resized": REFERENCE.global_view(prepared, (224, 224)).numpy(), "original": source.numpy()}
    for kind, pixels in views.items():

        def measure(kind: str = kind, pixels: NDArray[Any] = pixels) -> float:
            samples = golden[f"{kind}_img_sample"]
            errors = [
                largest(sampled(pixels, len(samples)), samples),
                largest([pixels.mean(dtype=np.float64), pixels.std(dtype=np.float64)], golden[f"{kind}_img_stat"]),
            ]
            return float(np.max(errors))

        yield check(part, f"{kind} image samples", PIXELS, measure)
    grid = REFERENCE.grid_masks(rows.masks, (7, 7), 64, CPU).numpy()
    yield compare(part, "masks on the 7 x 7 grid", PIXELS, largest, grid, golden, "masks7")
    boxes = mask_boxes(torch.from_numpy(rows.masks), "reference")
    yield compare(part, "boxes, px", 0.5, largest, boxes, golden, "boxes")
    # The release's own boxes: some of its corners are whole numbers, where a rounding would cut another pixel.
    windows = crop_windows(golden.get("boxes", rows.boxes), rows.image.height, rows.image.width)
    yield compare(part, "truncated boxes", 0, largest, windows, golden, "boxes_int")
    crops = REFERENCE.local_views(source, rows.masks, windows, (224, 224)).numpy()

    def crop_samples() -> float:
        count = golden["crop_samples"].shape[1]
        return largest([sampled(crop, count) for crop in crops], golden["crop_samples"])

    def crop_statistics() -> float:
        wide = crops.reshape(len(crops), -1).astype(np.float64)
        return float(np.max([largest(wide.mean(1), golden["crop_means"]), largest(wide.std(1), golden["crop_stds"])]))

    yield check(part, "crop samples", CROPS, crop_samples)
    yield check(part, "crop means and deviations", CROPS, crop_statistics)


@dataclass(frozen=True)
class Features:
    """Ours: global (by k) and local features of `Rows`, in their order."""

    by_k: dict[int, NDArray[np.float32]]
    local: NDArray[np.float32]


def features_of(clip: MaskedClip, rows: Rows, ks: list[int]) -> Features:
    prepared = clip.prepare(rows.image)
    return Features(
        clip.global_features_by_k(prepared, rows.masks, ks), clip.local_features(prepared, rows.masks, rows.boxes)
    )


def ks_of(golden: Arrays) -> dict[int, str]:
    """k -> array name, of every ``global_b<first masked block>`` of ViT-B/32's 12 blocks in the file."""
    return {12 - int(match[1]): key for key in golden if (match := re.fullmatch(r"global_b(\d+)", key))}


def check_vit(name: str, clip: MaskedClip, rows: Rows, ours: Features, golden: Arrays) -> Iterator[Check]:
    part = f"{TITLES['vit']} {name}"
    for k, key in sorted(ks_of(golden).items()):
        yield compare(part, f"global features, k = {k}", VECTORS, relative_l2, ours.by_k[k], golden, key)
    yield compare(part, "local features", VECTORS, relative_l2, ours.local, golden, "crop")
    full = np.ones((1, rows.image.height, rows.image.width), dtype=bool)
    token = clip.global_features(rows.image, full)
    yield compare(part, "class token, no mask", VECTORS, relative_l2, token, golden, "encode_image_cls")


def check_rn50(name: str, model: open_clip.CLIP, rows: Rows, ours: Features, golden: Arrays) -> Iterator[Check]:
    """Without the ViT file the hand-made masks are not known: then the proposals alone are compared."""
    part, count = f"{TITLES['rn50']} {name}", len(rows.masks)

    def first(got: NDArray[Any], expected: NDArray[Any]) -> float:
        return relative_l2(got, expected if count > rows.proposals else expected[:count])

    yield compare(part, "global features", VECTORS, first, ours.by_k[K], golden, "global")
    yield compare(part, "local features", VECTORS, first, ours.local, golden, "crop")
    pixels = REFERENCE.global_view(REFERENCE.prepare(rows.image, CPU), (224, 224))
    with torch.inference_mode():
        visual: Any = model.visual
        features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels))))).numpy()
        pooled = MaskedResNet(visual).encode(pixels).numpy()
    flat = features[:, ::8].reshape(1, -1)
    yield check(part, "feature map", VECTORS, lambda: relative_l2(flat, golden["feature_map"].reshape(1, -1)))
    yield compare(part, "whole image", VECTORS, relative_l2, pooled, golden, "global_image")


def check_text_vectors(mode: str, clip: MaskedClip, folder: Folder) -> Iterator[Check]:
    """Vectors of the release's own sentences and phrases; rows where it raised have none."""
    for kind, key in (("sentence", "sentence_for_spacy"), ("noun", "noun_phrase")):

        def measure(kind: str = kind, key: str = key) -> tuple[float, str]:
            vectors = folder.arrays("text.npz")
            expected, rows = vectors[f"{mode}_{kind}"], folder.rows("text.json", "expressions")
            if unequal([row["index"] for row in rows], vectors["rows"].tolist()):
                return float("inf"), "the rows of text.json and text.npz differ"
            kept = [
                i
                for i, row in enumerate(rows)
                if key in row and (row["status"] == "ok" or not np.isnan(expected[i]).any())
            ]
            got = clip.text_features([rows[i][key] for i in kept])
            if mode == "rn50":  # the release normalises them before it mixes them; ours are raw
                got = got / np.linalg.norm(got, axis=1, keepdims=True)
            return relative_l2(got, expected[kept]), f"{len(kept)} strings"

        what = "sentence vectors" if kind == "sentence" else "noun phrase vectors"
        yield check(f"{TITLES[mode]} text", what, VECTORS, measure)
