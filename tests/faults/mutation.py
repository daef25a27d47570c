"""Mutations of bytes and of JSON: what a disk, a copy that was cut short, a network or an editor makes of a file."""

from __future__ import annotations

import json
import random
from typing import Any

_ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        2**31,
        2**63,
        10**400,
        1e308,
        1e-320,
        "",
        "\ud800",
        "\x00",
        "../../x",
        "é" * 300,
        [],
        {},
        [[]],
    ),
    *({"a": 1}, [0] * 1000, "NaN", [None], {"": []}, -(2**63)),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one kind of damage, at random; never equal to it."""
    while True:
        changed = rng.choice(_KINDS)(content, rng)
        if changed != content:
            return changed


def _flip(content: bytes, rng: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3, 20)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _zeros(content: bytes, rng: random.Random) -> bytes:
    """A block that was never written."""
    start, size = rng.randrange(len(content) + 1), rng.choice((1, 16, 512, 4096))
    return content[:start] + b"\0" * len(content[start : start + size]) + content[start + size :]


def _without(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 4, 512)) :]


def _inserted(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.choice((1, 4, 300))) + content[start:]


def _doubled(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] + content[end:]


def _extreme(content: bytes, rng: random.Random) -> bytes:
    """A number that becomes the largest or smallest of its width."""
    width = rng.choice((1, 2, 4, 8))
    start = rng.randrange(max(1, len(content) - width))
    return content[:start] + rng.choice((b"\xff", b"\x00", b"\x7f")) * width + content[start + width :]


_KINDS = (_flip, _flip, _cut, _zeros, _without, _inserted, _doubled, _extreme)


def other_structure(value: Any, rng: random.Random) -> Any:
    """``value`` (of JSON) with one thing in it replaced, removed, doubled or renamed."""
    value = json.loads(json.dumps(value))
    places = [(value, key) for key in _keys(value)]
    for holder, key in places:  # grows while it is walked
        if len(places) > 20_000:
            break
        places += [(holder[key], inner) for inner in _keys(holder[key])]
    if not places:
        return rng.choice(_ODD)
    holder, key = rng.choice(places)
    how = rng.randrange(4)
    if how == 0:
        holder[key] = rng.choice(_ODD)
    elif how == 1:
        del holder[key]
    elif how == 2:
        holder[key] = [holder[key], holder[key]]
    elif isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder.insert(key, holder[rng.randrange(len(holder))])
    return value


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def json_mutated(content: bytes, rng: random.Random) -> bytes:
    """JSON of another structure, or other bytes."""
    if rng.random() < 0.3:
        return mutated(content, rng)
    return json.dumps(other_structure(json.loads(content), rng)).encode("utf-8", "surrogatepass")
