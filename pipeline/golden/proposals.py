"""FreeSOLO against the release: from the input tensor to the proposals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.golden.check import SHAPES_DIFFER, Check, check, compare, largest, sampled, statistics, unequal
from pipeline.golden.folder import Absent, Arrays, Folder
from stages.proposals.decode import MASK_THRESHOLD, fired_cells, mask_statistics, matrix_nms, soft_masks
from stages.proposals.freesolo import FreeSolo, padded
from stages.proposals.items import Proposals
from stages.proposals.network import RawOutput

PIXELS = 6  # of one mask; the release in float32 and in float64 part by 3
VALUES = 1e-4
PYRAMID = ("p2", "p3", "p4", "p5", "p6")
GROUPS = {
    "input tensor": ("input", "padded"),
    "ResNet samples": ("stem", "res2", "res3", "res4", "res5"),
    "pyramid samples": PYRAMID,
    "mask feature samples": ("mask_pred",),
    "category logit samples": tuple(f"cate_logits{level}" for level in range(5)),
    "kernel samples": tuple(f"kernel_pred{level}" for level in range(5)),
}
Tensors = dict[str, NDArray[Any]]


def check_proposals(folder: Folder) -> Iterator[Check]:
    """Every quantity of every ``freesolo_<image>.npz``."""
    net: FreeSolo | None = None
    for name in folder.images:
        part = f"FreeSOLO {name}"
        try:
            golden, image = folder.arrays(f"freesolo_{name}.npz"), folder.image(name)
            net = net or rebuilt(folder)
        except Absent as lost:
            yield Check(part, "all", None, note=str(lost))
            continue
        seen, raw, proposals = traced(net, image)
        yield from _intermediates(part, golden, seen)
        yield from _matrix_nms(part, golden, raw, net)
        yield from _proposals(part, golden, proposals)


def rebuilt(folder: Folder) -> FreeSolo:
    """The official network with the folder's weights."""
    shapes = folder.json("freesolo_shapes.json")
    return FreeSolo.from_state_dict(folder.weights.fill(shapes, folder.weights.SEEDS["freesolo_r101"]))


def traced(net: FreeSolo, image: Image.Image) -> tuple[Tensors, RawOutput, Proposals]:
    """Everything that a golden file names, from one forward pass: name -> array; raw outputs; proposals."""
    seen: dict[str, torch.Tensor] = {}
    backbone = net.network.backbone
    hooks = [backbone.register_forward_hook(lambda _, __, out: seen.update(zip(PYRAMID, out, strict=True)))]
    for name in GROUPS["ResNet samples"]:
        module = backbone.bottom_up.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.clone()})))
    seen["input"] = net.preprocess(image)[None]
    seen["padded"] = padded(seen["input"])
    try:
        raw = net.forward(seen["padded"])
    finally:
        for hook in hooks:
            hook.remove()
    seen["mask_pred"] = raw.mask_features
    for level, (logits, kernels) in enumerate(zip(raw.category_logits, raw.kernels, strict=True)):
        seen[f"cate_logits{level}"], seen[f"kernel_pred{level}"] = logits, kernels
    height, width = seen["input"].shape[-2:]
    proposals = net.decode(raw, 0, (height, width), (image.height, image.width))
    return {name: values.numpy() for name, values in seen.items()}, raw, proposals


def intermediate_error(values: NDArray[Any], golden: Arrays, name: str) -> float:
    """The largest difference of a tensor's samples and statistics; infinite where its shape is another one."""
    if list(values.shape) != golden[f"shape_{name}"].tolist():
        return SHAPES_DIFFER
    samples = golden[f"sample_{name}"]
    errors = [
        largest(sampled(values, len(samples)), samples),
        largest(statistics(values), golden[f"stat_{name}"]),
    ]
    return float(np.max(errors))


def _intermediates(part: str, golden: Arrays, seen: Tensors) -> Iterator[Check]:
    for quantity, names in GROUPS.items():

        def measure(names: tuple[str, ...] = names) -> tuple[float, str]:
            errors = [intermediate_error(seen[name], golden, name) for name in names]
            return float(np.max(errors)), f"worst: {names[int(np.argmax(errors))]}" if len(names) > 1 else ""

        yield check(part, quantity, VALUES, measure)
    levels = range(5)
    yield check(
        part,
        "category logits, whole",
        VALUES,
        lambda: max(largest(seen[f"cate_logits{level}"][0], golden[f"cate_logits{level}"]) for level in levels),
    )
    grids = seen["kernel_pred0"][0, :, ::8, ::8], seen["mask_pred"][0, :, ::40, ::40]
    yield compare(part, "kernels, grid", VALUES, largest, grids[0], golden, "kernel_pred0_grid8")
    yield compare(part, "mask features, grid", VALUES, largest, grids[1], golden, "mask_pred_grid")


def _matrix_nms(part: str, golden: Arrays, raw: RawOutput, net: FreeSolo) -> Iterator[Check]:
    """The candidates before matrix NMS and their scores after it."""
    features, settings = raw.mask_features[0], net.settings
    logits, kernels = ([level[0] for level in levels] for levels in (raw.category_logits, raw.kernels))
    cells = fired_cells(logits, kernels, settings.score_threshold, settings.strides)
    areas, maskness = mask_statistics(cells.kernels, features)
    scores, large = cells.scores * maskness, areas > cells.min_areas
    order = torch.argsort(torch.where(large, scores, -1), descending=True)[: int(large.sum())]
    order = order[: settings.max_candidates]
    yield check(part, "candidates", 0, lambda: abs(int(large.sum()) - int(golden["n_candidates"])))
    scores, classes = scores[order], cells.classes[order]
    yield compare(part, "candidate scores", VALUES, largest, scores, golden, "nms_in_scores")
    yield compare(part, "candidate classes", 0, unequal, classes.numpy(), golden, "nms_labels")
    yield compare(part, "candidate areas, px", PIXELS, largest, areas[order], golden, "nms_in_sum_masks")
    binary = soft_masks(cells.kernels[order], features) > MASK_THRESHOLD
    decayed = matrix_nms(binary, classes, scores)
    yield compare(part, "scores after matrix NMS", VALUES, largest, decayed, golden, "nms_out_scores")


def _proposals(part: str, golden: Arrays, proposals: Proposals) -> Iterator[Check]:
    def masks() -> NDArray[np.bool_]:
        return golden.masks("pred_masks")

    yield check(part, "number of proposals", 0, lambda: (abs(len(proposals.masks) - len(masks())), f"{len(masks())}"))
    yield check(part, "order of proposals", 0, lambda: misplaced(proposals.masks, masks()))
    yield check(part, "mask pixels, most in one", PIXELS, lambda: most_flipped(proposals.masks, masks()))
    yield compare(part, "scores", VALUES, largest, proposals.scores, golden, "scores")
    yield compare(part, "boxes, px", 0.5, largest, proposals.boxes, golden, "pred_boxes")


def misplaced(got: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    """Rows where another of our masks overlaps the release's better than ours of the same row does."""
    if got.shape != expected.shape:
        return SHAPES_DIFFER
    a, b = (masks.reshape(len(masks), np.prod(masks.shape[1:])).astype(np.float32) for masks in (expected, got))
    common = a @ b.T
    overlap = common / np.maximum(a.sum(1)[:, None] + b.sum(1) - common, 1)
    return int((np.diag(overlap) < overlap.max(1, initial=0.0)).sum())


def most_flipped(got: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    """Pixels by which the worst mask differs."""
    if got.shape != expected.shape:
        return SHAPES_DIFFER
    return int((got != expected).sum((1, 2)).max(initial=0))
