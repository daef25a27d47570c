"""Finding a picture by what somebody calls it: its path, an end of that, a longer path, with or without extension."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_EXTENSION = re.compile(r"\.(jpe?g|png|bmp|tiff?|webp|gif)$", re.IGNORECASE)


def without_extension(path: str) -> str:
    """A path without the extension of a picture's file.

    >>> without_extension("a.b/c.PNG"), without_extension("a/v1.2")
    ('a.b/c', 'a/v1.2')
    """
    return _EXTENSION.sub("", path)


class PathEnds:
    """Paths with "/" by what they may be called.

    >>> PathEnds(["val/1.png", "test/1.png", "test/2.png"]).find("2")
    [2]
    >>> PathEnds(["val/1.png", "test/1.png"]).find("1.png")
    [0, 1]
    """

    def __init__(self, paths: Iterable[str]) -> None:
        listed = list(paths)
        self._whole, self._stems = _Ends(listed), _Ends(map(without_extension, listed))

    def find(self, called: str) -> list[int]:
        """Places of the paths that this may be: the path itself; else those that end with it; else the longest that it
        ends with; else the same without extensions."""
        return self._whole.find(called) or self._stems.find(without_extension(called))


class _Ends:
    def __init__(self, paths: Iterable[str]) -> None:
        self._of: dict[str, list[int]] = {}
        self._of_end: dict[str, list[int]] = {}
        for place, path in enumerate(paths):
            self._of.setdefault(path, []).append(place)
            for end in _ends(path):
                self._of_end.setdefault(end, []).append(place)

    def find(self, path: str) -> list[int]:
        if found := self._of.get(path) or self._of_end.get(path):
            return found
        return next((self._of[end] for end in _ends(path) if end in self._of), [])


def _ends(path: str) -> Iterator[str]:
    """What follows each "/" of a path, the longest first."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path
