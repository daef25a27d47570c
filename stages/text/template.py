"""Prompts around a text: checked once, used by every stage that takes them.

A template holds one prompt, or several with ``|`` between them: a text's vector is then the mean of the unit vectors of its
prompts (CLIP, Radford et al., 2021, sec. 3.1.4).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

BETWEEN = "|"
"""Stands between the prompts of a template, and between the strings of a text that has several."""


def _has_one_place(template: str) -> str:
    for prompt in template.split(BETWEEN):
        if prompt.count("{}") != 1 or prompt.count("{") != 1 or prompt.count("}") != 1:
            raise ValueError(f"expected exactly one {{}}, in each prompt where {BETWEEN} stands between several")
    return template


Template = Annotated[str, AfterValidator(_has_one_place)]
"""Prompts in each of which one ``{}`` stands for the text."""


def prompts_of(template: str, text: str) -> tuple[str, ...]:
    """The text in each prompt of a template.

    >>> prompts_of("a photo of {} | {}", "a dog")
    ('a photo of a dog', 'a dog')
    >>> prompts_of(" {}", "a dog")
    (' a dog',)
    """
    prompts = template.split(BETWEEN)
    if len(prompts) == 1:
        return (template.format(text),)
    return tuple(prompt.strip().format(text) for prompt in prompts)


def mean_of_prompts(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector of a text from those of its n prompts, float32 (n, D) -> (D,): itself for one, else the mean of unit vectors.

    A prompt without a usable vector leaves NaNs.
    """
    if len(vectors) == 1:
        alone: NDArray[np.float32] = vectors[0]
        return alone
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    mean: NDArray[np.float32] = (wide / np.where(lengths > 0, lengths, np.nan)).mean(0).astype(np.float32)
    return mean
