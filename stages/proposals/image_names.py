"""Which image of the index a mask is of, by what its generator calls it: an id, a name, the end of a path, a stem."""

from __future__ import annotations

from collections.abc import Iterable

from stages.datasets.fields import NO_ID, shown, whole_number
from store.errors import DataError
from store.path_ends import PathEnds, without_extension
from store.table import Table

SHOWN = 4


class ImageNames:
    """The images of the index by id and by name. Ids of two data sets may coincide, ends of names too."""

    def __init__(self, index: Table) -> None:
        self._names: list[str] = index["image_name"]
        self._ids: list[int] = index["image_id"].tolist()
        self._of_id: dict[int, list[int]] = {}
        self._paths = PathEnds(self._names)
        self._of_number: dict[int, list[int]] = {}
        for row, (name, image_id) in enumerate(zip(self._names, self._ids, strict=True)):
            if image_id != NO_ID:
                self._of_id.setdefault(image_id, []).append(row)
            if (number := whole_number(without_extension(name).rpartition("/")[2])) is not None:
                self._of_number.setdefault(number, []).append(row)

    def named_by(self, file_name: object, image_id: object) -> tuple[str, list[int]]:
        """What a mask calls its image, and the rows of the index that this may be; none for an unknown image.

        ``file_name`` counts where there is one. Text is a whole name, else the end of one after a "/", else it ends with one;
        else the same without extensions; else, if it is of digits, an id. ``image_id`` is an id, else the digits of a stem,
        else, where it is text, what a ``file_name`` may be.

        Raises:
            DataError: it calls it nothing, or by something that is no id and no name.
        """
        if isinstance(file_name, str):
            return f"file_name {file_name}", self._by_text(file_name) or self._by_number(whole_number(file_name))
        if file_name is not None:
            raise DataError(f"file_name: expected text, got {shown(file_name)}")
        number = image_id if type(image_id) is int else whole_number(image_id)
        text = image_id if isinstance(image_id, str) else ""
        if number is None and not text:
            raise DataError(f"image_id: expected an integer or text, got {shown(image_id)}")
        called = f"image_id {text or shown(number).partition(' ')[2]}"
        return called, self._by_number(number) or self._by_text(text)

    def shown(self, rows: Iterable[int]) -> str:
        """The first few of these images, for messages."""
        return listed(f"image_id {self._ids[row]} ({self._names[row]})" for row in rows)

    def _by_text(self, text: str) -> list[int]:
        return self._paths.find(text.replace("\\", "/").removeprefix("./"))

    def _by_number(self, number: int | None) -> list[int]:
        return [] if number is None else self._of_id.get(number) or self._of_number.get(number, [])


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    rows = list(names)
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(rows[:SHOWN]) + more
