"""The network rebuilt for inference: batch norms folded into their convolutions, channels last, Winograd's 3x3."""

from collections.abc import Callable
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from stages.proposals.network import ConvNorm, SoloNetwork
from stages.proposals.winograd import WinogradConv

WINOGRAD_CHANNELS = 128
"""With fewer channels on either side, the transforms cost more than the products that they save."""


def optimised(
    network: SoloNetwork, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SoloNetwork:
    """``network``, rebuilt in place for inference on ``device`` in ``dtype``. It can no longer be trained or saved.

    The outputs are the same to rounding. Winograd's convolutions are for float32 on a CPU only: GPUs have their own,
    and half precision would round the larger numbers between the transforms.
    """
    network.eval().requires_grad_(False)
    _replace(network, lambda module: folded(module) if isinstance(module, ConvNorm) else module)
    network.to(device, dtype).to(memory_format=torch.channels_last)
    if torch.device(device).type == "cpu" and dtype == torch.float32:
        _replace(network, lambda module: WinogradConv(module) if _gains(module) else module)
    return network


def folded(conv: ConvNorm) -> nn.Conv2d:
    """One convolution with a bias for a convolution and its batch norm in eval mode. The product is taken in float64."""
    norm, weight = conv.norm, conv.weight
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.double() / torch.sqrt(variance + norm.eps)
    size, stride, padding = (cast(tuple[int, int], of) for of in (conv.kernel_size, conv.stride, conv.padding))
    out = nn.Conv2d(conv.in_channels, conv.out_channels, size, stride, padding, device="meta")
    out.weight = _constant((weight.double() * scale[:, None, None, None]).to(weight.dtype))
    out.bias = _constant((norm.bias.double() - mean * scale).to(weight.dtype))
    return out


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)


def _gains(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether Winograd's form of a module exists and is faster."""
    return (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
        and min(module.in_channels, module.out_channels) >= WINOGRAD_CHANNELS
    )


def _replace(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> None:
    """Put ``change(child)`` in the place of every module inside ``module``, innermost first."""
    for name, child in list(module.named_children()):
        _replace(child, change)
        setattr(module, name, change(child))
