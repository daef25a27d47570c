"""3x3 convolutions with fewer products, the same to rounding: Winograd's F(4x4, 3x3) (arXiv 1509.09308, sec. 4.1).

Every 6 x 6 tile of the input gives 4 x 4 outputs: transform the tile, multiply its 36 numbers by 36 of each kernel,
transform back. That is 36 products instead of 144. The transforms are small matrices, so all work is matrix products.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

OUT, KERNEL = 4, 3
TILE = OUT + KERNEL - 1
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where the polynomials meet, beside infinity. These round less than 0, 1, -1, 2, -2 (arXiv 1803.10986)."""
TILES_AT_ONCE = 256
"""Tiles of one pass: enough rows for fast matrix products, few enough to stay in the cache."""


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Toom and Cook's matrices in float64: input (6, 6), kernel (6, 3), output (4, 6).

    In one dimension, output @ ((kernel @ w) * (input @ d)) is the correlation of d (6,) with w (3,), its 4 whole places.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)
    others = [torch.cat([points[:i], points[i + 1 :]]) for i in range(len(points))]
    at_input = torch.zeros(TILE, TILE, dtype=torch.float64)
    for row, roots in enumerate(others):
        at_input[row, : TILE - 1] = _coefficients(roots)
    at_input[-1] = _coefficients(points)
    scale = torch.stack([(point - roots).prod() for point, roots in zip(points, others, strict=True)])
    infinity = torch.zeros(1, TILE, dtype=torch.float64)
    infinity[0, -1] = 1
    at_kernel = torch.cat([_powers(points, KERNEL) / scale[:, None], infinity[:, -KERNEL:]])
    at_output = torch.cat([_powers(points, OUT), infinity[:, -OUT:]]).T
    return at_input, at_kernel, at_output


def _powers(points: Tensor, count: int) -> Tensor:
    return points[:, None] ** torch.arange(count, dtype=torch.float64)


def _coefficients(roots: Tensor) -> Tensor:
    """Of the polynomial with these roots and leading 1, lowest power first."""
    out = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        out = functional.pad(out, (1, 0)) - root * functional.pad(out, (0, 1))
    return out


class WinogradConv(nn.Module):
    """Gives what a 3x3 convolution with stride 1 and padding 1 gives; for inference, and made from one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        at_input, at_kernel, at_output = transforms()
        weight = conv.weight.detach()
        self.out_channels = conv.out_channels
        both = torch.kron(at_kernel, at_kernel) @ weight.double().permute(2, 3, 1, 0).reshape(KERNEL**2, -1)
        kernels = both.view(TILE**2, conv.in_channels, conv.out_channels)
        for name, values in (
            ("kernels", kernels),  # (36, in, out)
            ("at_input", torch.kron(at_input, at_input)),  # (36, 36)
            ("at_output", torch.kron(at_output, at_output)),  # (16, 36)
        ):
            self.register_buffer(name, values.to(weight), persistent=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W), channels last in memory."""
        batch, _, height, width = x.shape
        x = x.permute(0, 2, 3, 1)
        across = -(-width // OUT)
        lines = OUT * max(1, TILES_AT_ONCE // (batch * across))
        out = x.new_empty(batch, height, width, self.out_channels)
        for top in range(0, height, lines):
            rows = min(lines, height - top)
            down = -(-rows // OUT)
            first, last = max(0, top - 1), min(height, top + OUT * down + 1)
            edges = (1, OUT * across + 1 - width, first - (top - 1), top + OUT * down + 1 - last)
            strip = functional.pad(x[:, first:last], (0, 0, *edges))
            out[:, top : top + rows] = self._strip(strip)[:, :rows, :width]
        return out.permute(0, 3, 1, 2)

    def _strip(self, strip: Tensor) -> Tensor:
        """(B, 4 d + 2, 4 a + 2, in) -> (B, 4 d, 4 a, out)."""
        tiles = strip.unfold(1, TILE, OUT).unfold(2, TILE, OUT)  # (B, d, a, in, 6, 6)
        batch, down, across, channels = tiles.shape[:4]
        tiles = tiles.permute(4, 5, 0, 1, 2, 3).reshape(TILE**2, -1)
        at_points = cast(Tensor, self.at_input) @ tiles
        products = at_points.view(TILE**2, -1, channels) @ cast(Tensor, self.kernels)
        out = cast(Tensor, self.at_output) @ products.view(TILE**2, -1)
        out = out.view(OUT, OUT, batch, down, across, -1)
        if self.bias is not None:
            out += self.bias
        return out.permute(2, 3, 0, 4, 1, 5).reshape(batch, OUT * down, OUT * across, -1)
