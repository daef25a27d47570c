"""The text files of a model's folder in Hugging Face's layout: config, preprocessor, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.clip.forms import text_instead
from store.errors import WeightsError, reason
from store.regular import read_regular

_POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex")
_MOST_BYTES = 1 << 28


def text_of(file: Path) -> str:
    """The text of a file of a model.

    Raises:
        WeightsError: there is none, it cannot be read, or is a stand-in for the file (a Git LFS pointer).
    """
    try:
        data = read_regular(file, _MOST_BYTES)
        if data.startswith(_POINTERS):
            raise WeightsError(f"{file}: expected a model's file, got {text_instead(data[:4096])}")
        return data.decode("utf-8")
    except (OSError, ValueError) as error:
        problem = "there is none" if isinstance(error, FileNotFoundError) else f"cannot read it ({reason(error)})"
        raise WeightsError(f"{file}: expected a model's file, {problem}; fetch the model's {file.name}") from error


def json_of(file: Path) -> dict[str, Any]:
    """The JSON object of a file of a model.

    Raises:
        WeightsError: as `text_of`, or it is no JSON object.
    """
    text = text_of(file)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{file}: expected a JSON object, cannot read it ({reason(error)}); fetch it again"
        ) from error
    if not isinstance(document, dict):
        raise WeightsError(f"{file}: expected a JSON object, got {type(document).__name__}; fetch it again")
    return document
