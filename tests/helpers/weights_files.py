"""A small state dict in the forms that weights come in, and what every error about such a file must be."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from store.errors import WeightsError

State = dict[str, Tensor]
STATE: State = {
    "visual.conv1.weight": torch.arange(12.0).reshape(3, 4),
    "logit_scale": torch.tensor(4.6),
    "half": torch.arange(6).half(),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
}


def save_torch(content: Any, path: Path, *, old: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def save_pickle(content: Any, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def arrays(state: State) -> dict[str, Any]:
    return {name: value.numpy() for name, value in state.items()}


def assert_ours(error: WeightsError, path: Path) -> None:
    """One line of ours that begins with the file and ends in a remedy; no other library's advice, no addresses."""
    said = str(error)
    assert said.startswith(f"{path}: ")
    assert ";" in said
    for foreign in ("weights_only", "torch.load", "Traceback", "0x", "allowlist", "\n", "add_safe_globals"):
        assert foreign not in said
