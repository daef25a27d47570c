"""A digest at the end of a page: of all that stands before it, so that a flipped bit of it is found."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from store.errors import StoreError, reading, repair

_SEAL = re.compile(rb"<!-- sha256 of all before: ([0-9a-f]{64}) -->\n")


def sealed(page: str) -> str:
    """``page`` with a comment at its end that holds the digest of the rest."""
    return f"{page}<!-- sha256 of all before: {hashlib.sha256(page.encode()).hexdigest()} -->\n"


def check_seal(path: Path) -> None:
    """Compare a page with the digest at its end.

    Raises:
        StoreError: no file, no digest at its end, or another one.
    """
    with reading(path, repair(path)):
        content = path.read_bytes()
    seals = list(_SEAL.finditer(content))
    if not seals or seals[-1].end() != len(content):
        raise StoreError(f"{path}: expected a page with its digest at the end, found none: it was cut; {repair(path)}")
    digest = hashlib.sha256(content[: seals[-1].start()]).hexdigest()
    if digest != seals[-1][1].decode():
        raise StoreError(
            f"{path}: its content has digest {digest[:12]}, expected {seals[-1][1].decode()[:12]}: it is damaged or was "
            f"edited; {repair(path)}"
        )
