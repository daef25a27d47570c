"""3x3 convolutions with fewer products, the same to rounding: Winograd's F(4x4, 3x3) (arXiv 1509.09308, sec. 4.1).

Every 6 x 6 tile of the input gives 4 x 4 outputs: transform the tile, multiply its 36 numbers by 36 of each kernel,
transform back. That is 36 products instead of 144. The transforms are compiled (`winograd_kernel`).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.device.linear import linear

OUT, KERNEL = 4, 3
TILE = OUT + KERNEL - 1
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where the polynomials are evaluated, besides infinity. These round less than 0, 1, -1, 2, -2 (arXiv 1803.10986)."""
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
    """Gives what a 3x3 convolution with stride 1 and padding 1 gives, in float32 on a CPU; for inference, made from one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        at_input, at_kernel, at_output = transforms()
        weight = conv.weight.detach()
        self.out_channels = conv.out_channels
        both = torch.kron(at_kernel, at_kernel) @ weight.double().permute(2, 3, 0, 1).reshape(KERNEL**2, -1)
        kernels = both.view(TILE**2, conv.out_channels, conv.in_channels)
        self.register_buffer("kernels", kernels.to(weight), persistent=False)
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("_bias", bias, persistent=False)
        self._at_input, self._at_output = (at.to(weight.dtype).numpy() for at in (at_input, at_output))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W), channels last in memory."""
        batch, _, height, width = x.shape
        x = x.permute(0, 2, 3, 1)
        across = -(-width // OUT)
        lines = OUT * max(1, TILES_AT_ONCE // across)
        out = x.new_empty(batch, height, width, self.out_channels)
        most = TILE**2 * (lines // OUT) * across
        buffers = [(x.new_empty(most * channels), channels) for channels in (x.shape[3], self.out_channels)]
        for image in range(batch):
            for top in range(0, height, lines):
                rows = min(lines, height - top)
                down = -(-rows // OUT)
                first, last = max(0, top - 1), min(height, top + OUT * down + 1)
                edges = (1, OUT * across + 1 - width, first - (top - 1), top + OUT * down + 1 - last)
                strip = functional.pad(x[image, first:last], (0, 0, *edges)).contiguous()
                size = TILE**2 * down * across
                used = [buffer[: size * channels].view(TILE**2, -1, channels) for buffer, channels in buffers]
                self._convolve(strip, used[0], used[1], out[image, top : top + rows])
        return out.permute(0, 3, 1, 2)

    def _convolve(self, strip: Tensor, points: Tensor, products: Tensor, out: Tensor) -> None:
        """(4 d + 2, 4 a + 2, in) -> ``out`` (h, w, out), by way of ``points`` (36, d a, in), ``products`` (36, d a, out)."""
        from stages.proposals.winograd_kernel import from_points, to_points

        to_points(strip.numpy(), self._at_input, points.numpy())
        for point, kernel, product in zip(points, cast(Tensor, self.kernels), products, strict=True):
            product.copy_(linear(point, kernel))
        from_points(products.numpy(), self._at_output, cast(Tensor, self._bias).numpy(), out.numpy())
