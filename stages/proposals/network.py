"""SOLOv2 as FreeSOLO uses it: ResNet bottlenecks, feature pyramid, instance head, mask head (arXiv 2003.10152, sec. 3).

Modules carry detectron2's names, so a released checkpoint's keys are this module's keys. Every width and depth is a
field of `Architecture`; `read_architecture` reads them off the shapes of a state dict.

The batch norms are ordinary ones: in eval mode they are detectron2's frozen batch norm, in train mode they learn.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.clip.layouts import looks_like
from store.errors import WeightsError

GRIDS = (40, 36, 24, 16, 12)
NORM_EPS = 1e-5
NORM_GROUPS = 32
PYRAMID_LEVELS = (2, 3, 4, 5)


class Stage(NamedTuple):
    """One residual stage: how many bottlenecks, channels of their 3x3, channels they give out."""

    blocks: int
    width: int
    out: int


@dataclass(frozen=True)
class Architecture:
    """All that the shapes of a state dict say. Channels that pass a GroupNorm must be multiples of 32."""

    stem: int
    stages: tuple[Stage, ...]  # res2..res5
    pyramid: int
    tower_width: int
    tower_depth: int
    mask_width: int
    kernel: int  # length of a cell's kernel = channels of the mask features
    classes: int


class RawOutput(NamedTuple):
    """The network's outputs for a batch, before any decoding. One entry per level, finest grid first."""

    category_logits: list[Tensor]  # (B, classes, S, S), before the sigmoid
    kernels: list[Tensor]  # (B, kernel, S, S)
    mask_features: Tensor  # (B, kernel, H/4, W/4)


class ConvNorm(nn.Conv2d):
    """Convolution without bias, then batch norm under the name `norm`; pads so that stride 1 keeps the size."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(super().forward(x))
        return out


class Stem(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, outputs, 7, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.relu_(self.conv1(x)), 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1; the first of a stage projects its input to the new width."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if project else None
        self.conv1 = ConvNorm(inputs, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride)
        self.conv3 = ConvNorm(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu_(self.conv1(x))
        out = self.conv3(functional.relu_(self.conv2(out)))
        return functional.relu_(out.add_(x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    def __init__(self, stem: int, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stem = Stem(stem)
        inputs = stem
        for level, stage in zip(PYRAMID_LEVELS, stages, strict=True):
            stride = 1 if level == 2 else 2
            blocks = [Bottleneck(inputs, stage.width, stage.out, stride, project=True)]
            blocks += [Bottleneck(stage.out, stage.width, stage.out, 1, project=False) for _ in range(stage.blocks - 1)]
            self.add_module(f"res{level}", nn.Sequential(*blocks))
            inputs = stage.out

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> res2..res5, strides 4, 8, 16, 32."""
        x = self.stem(x)
        features = []
        for level in PYRAMID_LEVELS:
            x = self.get_submodule(f"res{level}")(x)
            features.append(x)
        return features


class Pyramid(nn.Module):
    """Feature pyramid over the ResNet (FPN, arXiv 1612.03144): nearest top-down, summed; p6 subsamples p5."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.bottom_up = ResNet(architecture.stem, architecture.stages)
        for level, stage in zip(PYRAMID_LEVELS, architecture.stages, strict=True):
            self.add_module(f"fpn_lateral{level}", nn.Conv2d(stage.out, architecture.pyramid, 1))
            self.add_module(f"fpn_output{level}", nn.Conv2d(architecture.pyramid, architecture.pyramid, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), H and W multiples of 32 -> p2..p6, strides 4, 8, 16, 32, 64."""
        merged: Tensor | None = None
        outputs: list[Tensor] = []
        for level, feature in reversed(list(zip(PYRAMID_LEVELS, self.bottom_up(x), strict=True))):
            lateral = self.get_submodule(f"fpn_lateral{level}")(feature)
            merged = lateral if merged is None else lateral.add_(functional.interpolate(merged, scale_factor=2.0))
            outputs.insert(0, self.get_submodule(f"fpn_output{level}")(merged))
        return [*outputs, functional.max_pool2d(outputs[-1], 1, stride=2)]


def with_coordinates(x: Tensor) -> Tensor:
    """Append an x and then a y channel, each from -1 to 1 over the feature's own size, ends included."""
    batch, _, height, width = x.shape
    ys = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    xs = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.cat([x, torch.stack([grid_x, grid_y]).expand(batch, -1, -1, -1)], dim=1)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres aligned, no antialias: the one resize of the whole method."""
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def conv_group_norm(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        nn.GroupNorm(NORM_GROUPS, outputs),
        nn.ReLU(inplace=True),
    ]


class InstanceHead(nn.Module):
    """For every cell of every level's grid: class logits, and the kernel that draws the cell's mask."""

    def __init__(self, architecture: Architecture, grids: Sequence[int]) -> None:
        super().__init__()
        self.grids = tuple(grids)
        inputs, width = architecture.pyramid, architecture.tower_width
        self.cate_tower = self._tower(inputs, width, architecture.tower_depth)
        self.kernel_tower = self._tower(inputs + 2, width, architecture.tower_depth)
        self.cate_pred = nn.Conv2d(width, architecture.classes, 3, padding=1)
        self.kernel_pred = nn.Conv2d(width, architecture.kernel, 3, padding=1)

    @staticmethod
    def _tower(inputs: int, width: int, depth: int) -> nn.Sequential:
        widths = [inputs] + [width] * depth
        return nn.Sequential(*(m for i in range(depth) for m in conv_group_norm(widths[i], widths[i + 1], 3)))

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """p2..p6 -> (category logits, kernels), each a list over levels of (B, C, S, S)."""
        p2, p3, p4, p5, p6 = pyramid
        halved = resized(p2, (p2.shape[-2] // 2, p2.shape[-1] // 2))
        doubled = resized(p6, (p5.shape[-2], p5.shape[-1]))
        logits, kernels = [], []
        for feature, grid in zip((halved, p3, p4, p5, doubled), self.grids, strict=True):
            cells = resized(with_coordinates(feature), (grid, grid))
            kernels.append(self.kernel_pred(self.kernel_tower(cells)))
            logits.append(self.cate_pred(self.cate_tower(cells[:, :-2])))
        return logits, kernels


class MaskHead(nn.Module):
    """p2..p5 -> one feature map at stride 4, on which every kernel is a 1x1 convolution."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        inputs, width = architecture.pyramid, architecture.mask_width
        self.convs_all_levels = nn.ModuleList()
        for level in range(len(PYRAMID_LEVELS)):
            branch = nn.Sequential()
            for step in range(max(level, 1)):
                coordinates = 2 if level == len(PYRAMID_LEVELS) - 1 else 0
                channels = inputs + coordinates if step == 0 else width
                branch.add_module(f"conv{step}", nn.Sequential(*conv_group_norm(channels, width, 3)))
                if level > 0:
                    upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
                    branch.add_module(f"upsample{step}", upsample)
            self.convs_all_levels.append(branch)
        self.conv_pred = nn.Sequential(*conv_group_norm(width, architecture.kernel, 1))

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """p2..p5 (B, pyramid, ., .) -> (B, kernel, H/4, W/4), not negative."""
        *shallow, deepest = pyramid
        inputs = [*shallow, with_coordinates(deepest)]
        total = self.convs_all_levels[0](inputs[0])
        for branch, feature in zip(list(self.convs_all_levels)[1:], inputs[1:], strict=True):
            total = branch(feature).add_(total)
        features: Tensor = self.conv_pred(total)
        return features


class SoloNetwork(nn.Module):
    """The whole network. Images in, raw outputs out; decoding stands apart (`decode`)."""

    def __init__(self, architecture: Architecture, grids: Sequence[int] = GRIDS) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone = Pyramid(architecture)
        self.ins_head = InstanceHead(architecture, grids)
        self.mask_head = MaskHead(architecture)

    def forward(self, images: Tensor) -> RawOutput:
        """Normalised images (B, 3, H, W), H and W multiples of 32 -> RawOutput."""
        pyramid = self.backbone(images)
        logits, kernels = self.ins_head(pyramid)
        return RawOutput(logits, kernels, self.mask_head(pyramid[:4]))


def expected_keys(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The keys a checkpoint must hold: all of the module's but the batch norms' step counters, which nothing reads."""
    return ((key, value) for key, value in network.state_dict().items() if not key.endswith(".num_batches_tracked"))


def read_architecture(shapes: Mapping[str, Sequence[int]]) -> Architecture:
    """Architecture from key -> shape. Raises WeightsError if a key it reads is missing or has no sensible shape."""
    stages = []
    for level in PYRAMID_LEVELS:
        prefix = f"backbone.bottom_up.res{level}"
        out, width = _shape(shapes, f"{prefix}.0.conv3.weight", 4)[:2]
        stages.append(Stage(_count(shapes, rf"{re.escape(prefix)}\.(\d+)\."), width, out))
    tower_width, pyramid = _shape(shapes, "ins_head.cate_tower.0.weight", 4)[:2]
    architecture = Architecture(
        stem=_shape(shapes, "backbone.bottom_up.stem.conv1.weight", 4)[0],
        stages=tuple(stages),
        pyramid=pyramid,
        tower_width=tower_width,
        tower_depth=(_count(shapes, r"ins_head\.cate_tower\.(\d+)\.weight") + 1) // 3,
        mask_width=_shape(shapes, "mask_head.convs_all_levels.0.conv0.0.weight", 4)[0],
        kernel=_shape(shapes, "ins_head.kernel_pred.weight", 4)[0],
        classes=_shape(shapes, "ins_head.cate_pred.weight", 4)[0],
    )
    for what in ("tower_width", "mask_width", "kernel"):
        if getattr(architecture, what) % NORM_GROUPS:
            raise WeightsError(
                f"{what}: expected a multiple of {NORM_GROUPS} (GroupNorm), got {getattr(architecture, what)}: "
                "these are not the weights of a SOLOv2 or FreeSOLO network"
            )
    return architecture


def _shape(shapes: Mapping[str, Sequence[int]], key: str, dimensions: int) -> tuple[int, ...]:
    if key not in shapes:
        some, known = ", ".join(sorted(shapes)[:3]) or "none at all", looks_like(shapes)
        raise WeightsError(
            f"missing key {key}: expected detectron2's names of a SOLOv2 network with bottlenecks, got keys like {some}"
            f"{f', as of {known}' if known else ''}"
        )
    if len(shapes[key]) != dimensions or 0 in shapes[key]:
        raise WeightsError(f"{key}: expected a shape of {dimensions} positive sizes, got {list(shapes[key])}")
    return tuple(shapes[key])


def _count(shapes: Mapping[str, Sequence[int]], pattern: str) -> int:
    """One more than the largest index the pattern finds at the start of a key."""
    matches = (re.match(pattern, key) for key in shapes)
    return 1 + max(int(match[1]) for match in matches if match)
