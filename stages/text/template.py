"""A prompt around a text: checked once, used by every stage that takes one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _has_one_place(template: str) -> str:
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ValueError("expected exactly one {}")
    return template


Template = Annotated[str, AfterValidator(_has_one_place)]
"""A prompt in which one ``{}`` stands for the text."""
