"""Reading a weights file as name -> tensor, whatever its form. No code of a file is ever run, nothing is downloaded."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stages.clip import torchscript
from store.errors import WeightsError

# What readers raise on bytes that are not what they expect.
_READ_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError),
    *(SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError),
)


def read_state_dict(path: Path) -> dict[str, Any]:
    """What a weights file holds: name -> tensor, and the metadata that some checkpoints have.

    Args:
        path: ``.safetensors``, a PyTorch checkpoint (``torch.save``) or a TorchScript archive as OpenAI published them.
            ``state_dict`` and ``model`` wrappers are opened, a ``module.`` prefix is dropped; float16 stays float16.

    Raises:
        WeightsError: no file, a damaged one, or one that holds more than tensors in plain containers.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        elif torchscript.is_archive(path):
            # The causal mask is stored with the code; the model makes its own.
            state = {
                name: value for name, value in torchscript.read_tensors(path).items() if not name.endswith("attn_mask")
            }
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: expected a weights file, found none; fetch the weights or correct the path"
        ) from error
    except _READ_ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{path}: cannot be read as tensors: {reason}; it is damaged, or holds more than tensors in plain containers, "
            f"which is refused because loading it could run code; fetch it again, or where you trust it, load it yourself "
            f"and save its state_dict as .safetensors"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"{path}: expected a state_dict, names with tensors, got {type(state).__name__}; save model.state_dict()"
        )
    named: dict[str, Any] = state
    if all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): value for name, value in named.items()}
    return named
