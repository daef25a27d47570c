"""Reading a weights file as name -> tensor, whatever its form. No code of a file is ever run, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from stages.clip.checkpoint import Checkpoint, open_checkpoint, tensors_of
from stages.clip.forms import Form, form_of
from stages.clip.unpickler import StoredArray, StoredTensor
from store.errors import WeightsError
from store.unpickler import Refused

WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "clip_model", "clip")
"""Keys of checkpoints under which the weights stand, the first that is there counts."""
PREFIXES = (
    "module.",
    "_orig_mod.",
    "state_dict.",
    "state_dict_ema.",
    "model_state_dict.",
    "model.",
    "clip_model.",
    "clip.",
)
"""What training code puts before the name of every tensor."""
_DEPTH = 4
_LONGEST_NAME = 300


def read_state_dict(path: Path) -> dict[str, Any]:
    """What a weights file holds: name -> tensor, and plain values beside them in some checkpoints.

    The bytes say which form it is, not the name: ``.safetensors``, a PyTorch checkpoint of either form (``torch.save``),
    a TorchScript archive as OpenAI published them, or a pickle of numpy arrays (detectron2's ``.pkl``). `WRAPPERS` are
    opened, `PREFIXES` that all tensors share are dropped; float16 stays float16. Only the weights are read, not an
    optimiser's state. Names stay those of the file: `stages.clip.layouts` knows others than open_clip's.

    Raises:
        WeightsError: no file, no weights, a damaged one, or one that holds more than tensors in plain containers.
    """
    form = form_of(path)
    try:
        if form == "safetensors":
            named: dict[str, Any] = dict(load_file(path))
        else:
            checkpoint = open_checkpoint(path, form)
            named = tensors_of(_entries(path, checkpoint), checkpoint, path.stat().st_size)
    except WeightsError:
        raise
    except Exception as error:  # damaged bytes can fail in any instruction, with any error
        raise _unreadable(path, form, error) from error
    if form == "torchscript":  # the causal mask is stored with the code; the model makes its own
        named = {name: value for name, value in named.items() if not name.endswith("attn_mask")}
    if odd := next((name for name in named if not name.isprintable() or len(name) > _LONGEST_NAME), None):
        raise WeightsError(
            f"{path}: expected names of tensors, got {odd[:_LONGEST_NAME]!r}; the file is damaged, fetch the weights file again"
        )
    return without_prefixes(named)


def without_prefixes(named: Mapping[str, Any]) -> dict[str, Any]:
    """``named`` without the `PREFIXES` that all tensors share, one after the other."""
    stripped = dict(named)
    for _ in range(_DEPTH):
        tensors = [name for name, value in stripped.items() if isinstance(value, Tensor)]
        prefix = next((p for p in PREFIXES if tensors and all(name.startswith(p) for name in tensors)), "")
        if not prefix:
            break
        others = {name: value for name, value in stripped.items() if not isinstance(value, Tensor)}
        stripped = others | {name.removeprefix(prefix): stripped[name] for name in tensors}
    return stripped


def _entries(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The names with tensors in what a checkpoint holds, out of their wrappers."""
    content = checkpoint.content
    for _ in range(_DEPTH):
        inner = content if isinstance(content, dict) else {}
        wrapper = next((name for name in WRAPPERS if isinstance(inner.get(name), dict)), "")
        if not wrapper:
            break
        content = content[wrapper]
    if isinstance(content, dict) and any(isinstance(value, StoredTensor | StoredArray) for value in content.values()):
        return {str(name): value for name, value in content.items()}
    if isinstance(content, dict):
        keys = ", ".join(repr(name)[:40] for name in list(content)[:5])
        content_kind = f"a dict of {keys or 'nothing'}, none of them a tensor"
    else:
        content_kind = "one tensor" if isinstance(content, StoredTensor | StoredArray) else type(content).__name__
    raise WeightsError(
        f"{path}: expected a state_dict, names with tensors, got {content_kind}; save model.state_dict() or give another file"
    )


def _unreadable(path: Path, form: Form, error: Exception) -> WeightsError:
    """What is wrong with a file whose reader failed: in our words, without addresses."""
    known = {MemoryError: "too little memory", EOFError: "it ends too early", OSError: "the disk does not give it"}
    refusal = "".join(c if c.isprintable() else "?" for c in str(error)) if isinstance(error, Refused) else ""
    reason = refusal or next(
        (words for kind, words in known.items() if isinstance(error, kind)), "its bytes make no sense"
    )
    kind = {"torchscript": "TorchScript archive", "checkpoint": "PyTorch checkpoint"}.get(form, form)
    if refusal.startswith("refused"):
        return WeightsError(
            f"{path}: cannot be read as tensors: {reason}; this {kind} holds more than tensors in plain containers, which is "
            "refused because loading it could run code; take another source, or where you trust it, load it yourself and "
            "save its state_dict as .safetensors"
        )
    return WeightsError(
        f"{path}: cannot be read as tensors: {reason}; this {kind} is damaged; fetch the weights file again"
    )
