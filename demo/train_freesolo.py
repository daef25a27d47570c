"""The recipe of the demo's proposal network: `python -m demo.train_freesolo [--minutes N] [--threads T] [--out DIR]`.

A small network of the official class learns RefShapes scenes drawn on the fly, with SOLOv2's own losses (arXiv
2003.10152, sec. 3.3): focal loss for the cells at the centre of an object, dice for the masks their kernels draw. The
schedule follows the clock, so a slower machine trains fewer steps, not longer. Every few minutes the weights, rounded
to float16, are written and measured on held-out scenes through the real `FreeSolo.propose`; the last are the result.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from demo.scenes import IMAGE_SIZES, Scene, draw_scene, training_rng
from stages.proposals.freesolo import FreeSolo, padded
from stages.proposals.network import Architecture, RawOutput, SoloNetwork, Stage

ARCHITECTURE = Architecture(
    stem=32,
    stages=(Stage(2, 32, 64), Stage(2, 48, 128), Stage(3, 64, 192), Stage(2, 96, 256)),
    pyramid=64,
    tower_width=96,
    tower_depth=3,
    mask_width=64,
    kernel=64,
    classes=2,
)
SHORT_SIDE = 256
# Low, because the benchmark filters later and a missed object cannot be chosen; about 20 proposals an image.
THRESHOLDS: dict[str, Any] = {"score_threshold": 0.1, "update_threshold": 0.08}
NAME = "refshapes_freesolo"
SEED = 7
HELD_OUT_SEED = SEED + 1  # never trained on, and no evaluation scene either
BATCH = 8
PEAK_RATE = 2e-3
WARM_UP = 0.03  # share of the time
WEIGHT_DECAY = 1e-3
CLIP_NORM = 5.0
DICE_WEIGHT = 3.0
CENTRE = 0.2  # share of an object's box whose cells must find it
# Sizes (root of the box's area, as a share of the short side) that each level must find: SOLOv2's, for 800 pixels.
SCALES = tuple((low / 800, high / 800) for low, high in ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)))


@dataclass(frozen=True)
class Sample:
    """One scene of n objects as the network takes it: all float32, positions in pixels of the padded input."""

    pixels: Tensor  # (3, h, w), padded
    masks: Tensor  # (n, h/4, w/4): how much of each cell the object covers, 0..1
    boxes: Tensor  # (n, 4) XYXY
    centres: Tensor  # (n, 2) XY
    sizes: Tensor  # (n,) as in SCALES


def make_sample(net: FreeSolo, scene: Scene) -> Sample:
    pixels = net.preprocess(scene.image)
    height, width = pixels.shape[-2:]
    masks = torch.from_numpy(np.stack([item.mask for item in scene.objects])).float()
    scale = torch.tensor([width / scene.image.width, height / scene.image.height])
    small = functional.interpolate(masks[None], (height, width), mode="bilinear", antialias=True)[0]
    boxes = torch.tensor([item.box for item in scene.objects]) * scale.repeat(2)
    extent = boxes[:, 2:] - boxes[:, :2]
    return Sample(
        pixels=padded(pixels),
        masks=functional.avg_pool2d(padded(small)[None], 4)[0],
        boxes=boxes,
        centres=torch.tensor([item.centre for item in scene.objects]) * scale,
        sizes=extent.prod(1).sqrt() / min(height, width),
    )


def batches(net: FreeSolo) -> Iterator[list[Sample]]:
    """Training batches without end; all scenes of a batch have one size."""
    index = 0
    while True:
        size = IMAGE_SIZES[(index // BATCH) % len(IMAGE_SIZES)]
        yield [make_sample(net, draw_scene(training_rng(index + i, SEED), size)) for i in range(BATCH)]
        index += BATCH


def assign_cells(sample: Sample, grid: int, scale: tuple[float, float]) -> Tensor:
    """int64 (grid, grid): the object a cell must find, -1 for none. SOLOv2's centre regions, at most 3 x 3 cells."""
    height, width = sample.pixels.shape[-2:]
    to_cells = torch.tensor([grid / width, grid / height])
    cells = torch.full((grid, grid), -1)
    for item in torch.nonzero((sample.sizes >= scale[0]) & (sample.sizes <= scale[1]))[:, 0].tolist():
        reach = (sample.boxes[item, 2:] - sample.boxes[item, :2]) * CENTRE / 2
        middle, first, last = (
            ((sample.centres[item] + shift) * to_cells).floor().long() for shift in (0, -reach, reach)
        )
        left, top = torch.maximum(first, middle - 1).clamp(min=0).tolist()
        right, bottom = torch.minimum(last, middle + 1).clamp(max=grid - 1).tolist()
        cells[top : bottom + 1, left : right + 1] = item
    return cells


def losses(raw: RawOutput, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Focal loss of the categories and dice loss of the masks of a batch. Objects are class 0; class 1 is unused."""
    logits, targets, dice = [], [], []
    for index, sample in enumerate(samples):
        kernels, masks = [], []
        for level, level_kernels, scale in zip(raw.category_logits, raw.kernels, SCALES, strict=True):
            cells = assign_cells(sample, level.shape[-1], scale)
            fires = cells >= 0
            logits.append(level[index].flatten())
            targets.append(torch.stack([fires, torch.zeros_like(fires)]).flatten())
            kernels.append(level_kernels[index][:, fires].T)
            masks.append(sample.masks[cells[fires]])
        features = raw.mask_features[index].flatten(1)
        drawn = (torch.cat(kernels).float() @ features.float()).sigmoid()
        dice.append(dice_loss(drawn, torch.cat(masks).flatten(1)))
    target = torch.cat(targets).float()
    focal = focal_loss(torch.cat(logits).float(), target) / (target.sum() + 1)
    return focal, torch.cat(dice).mean() if any(map(len, dice)) else focal * 0


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Summed sigmoid focal loss (arXiv 1708.02002, eq. 5)."""
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = torch.where(targets > 0, 1 - logits.sigmoid(), logits.sigmoid())
    weight = torch.where(targets > 0, alpha, 1 - alpha)
    return (weight * missed**gamma * entropy).sum()


def dice_loss(drawn: Tensor, targets: Tensor) -> Tensor:
    """Per mask, (n, pixels) probabilities and coverage -> (n,): 1 - 2 sum(pq) / (sum(pp) + sum(qq))."""
    overlap = (drawn * targets).sum(1)
    return 1 - (2 * overlap + 1e-3) / (drawn.square().sum(1) + targets.square().sum(1) + 1e-3)


def new_network(architecture: Architecture = ARCHITECTURE) -> SoloNetwork:
    """Seeded random weights: objects are rare at first (focal loss needs it), residual branches start as nothing."""
    torch.manual_seed(SEED)
    network = SoloNetwork(architecture)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if name.endswith("conv3.norm"):
            nn.init.zeros_(module.weight)
    for head in (network.ins_head.cate_pred, network.ins_head.kernel_pred):
        nn.init.normal_(head.weight, std=0.01)
    network.state_dict()["ins_head.cate_pred.bias"].fill_(-math.log(99))  # every probability starts at 0.01
    return network


def train_step(
    network: SoloNetwork, samples: Sequence[Sample], optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """One update in bfloat16 autocast (twice as fast on a CPU that has it); returns the two losses."""
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = network(torch.stack([sample.pixels for sample in samples]))
    focal, dice = losses(raw, samples)
    optimizer.zero_grad(set_to_none=True)
    (focal + DICE_WEIGHT * dice).backward()
    nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
    optimizer.step()
    return focal.item(), dice.item()


def rounded_weights(network: SoloNetwork) -> dict[str, Tensor]:
    """What is committed: float16, without the batch norms' counters."""
    state = network.state_dict()
    return {key: value.half().contiguous() for key, value in state.items() if value.is_floating_point()}


def evaluate(weights: dict[str, Tensor], scenes: int) -> dict[str, float]:
    """Held-out figures of float16 weights: per object its best IoU, per image its proposals and seconds."""
    net = FreeSolo.from_state_dict(weights, short_side=SHORT_SIDE, **THRESHOLDS)
    best: list[float] = []
    counts, seconds = [], []
    for index in range(scenes):
        scene = draw_scene(training_rng(index, HELD_OUT_SEED))
        start = time.perf_counter()
        masks = net.propose(scene.image).masks
        seconds.append(time.perf_counter() - start)
        counts.append(len(masks))
        for item in scene.objects:
            unions = (masks | item.mask).sum((1, 2))
            best.append(float(((masks & item.mask).sum((1, 2)) / unions).max(initial=0)))
    return {
        "best_iou": round(float(np.mean(best)), 4),
        "found": round(float(np.mean(np.array(best) > 0.5)), 4),
        "proposals_median": float(np.median(counts)),
        "proposals_most": int(max(counts)),
        "seconds_median": round(float(np.median(seconds)), 4),
    }


def save(network: SoloNetwork, log: dict[str, Any], out: Path, scenes: int) -> dict[str, float]:
    """Measure the rounded weights, then write them and the log, each whole or not at all."""
    weights = rounded_weights(network)
    figures = evaluate(weights, scenes)
    log["held_out"].append({"step": log["steps"], "minutes": log["minutes"], "scenes": scenes, **THRESHOLDS, **figures})
    files: dict[str, Callable[[Path], object]] = {
        f"{NAME}.safetensors": lambda at: save_file(weights, at),
        f"{NAME}.log.json": lambda at: at.write_text(json.dumps(log, indent=1) + "\n"),
    }
    for path, write in ((out / name, write) for name, write in files.items()):
        unfinished = path.with_name(path.name + ".tmp")
        write(unfinished)
        unfinished.replace(path)
    return figures


def rate(progress: float) -> float:
    """Share of the peak learning rate at a share of the time: linear warm-up, then a cosine to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def train(minutes: float, out: Path, every: int = 250) -> None:
    network = new_network()
    net = FreeSolo(network, short_side=SHORT_SIDE)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE)
    log: dict[str, Any] = {"seed": SEED, "batch": BATCH, "short_side": SHORT_SIDE, "threads": torch.get_num_threads()}
    log |= {"steps": 0, "minutes": 0.0, "losses": [], "held_out": []}
    start, recent = time.monotonic(), []
    for step, samples in enumerate(batches(net), start=1):
        progress = (time.monotonic() - start) / (60 * minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate(progress)
        recent.append(train_step(network, samples, optimizer))
        log |= {"steps": step, "minutes": round((time.monotonic() - start) / 60, 2)}
        if step % 50 == 0:
            focal, dice = np.mean(recent, axis=0).round(4).tolist()
            recent.clear()
            log["losses"].append({"step": step, "focal": focal, "dice": dice})
            print(f"step {step}  {log['minutes']:.1f}/{minutes:g} min  focal {focal:.4f}  dice {dice:.4f}", flush=True)
        if step % every == 0:
            print(f"held out: {save(network, log, out, scenes=24)}", flush=True)
    print(f"held out, final: {save(network, log, out, scenes=200)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's FreeSOLO network on RefShapes.")
    parser.add_argument("--minutes", type=float, default=40.0, help="training time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("demo/models"), help="folder of the weights and the log")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.minutes, arguments.out)


if __name__ == "__main__":
    main()
