"""Form yolo_labels: a .txt for each image, as Ultralytics' ``save_txt``: a line for each mask, class x y x y ... [score].

x and y are shares of the image's width and height. An even number of numbers ends with a score (``save_conf``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stages.proposals.forms.given import Given, lines
from stages.proposals.forms.registry import FORMS, UNSCORED, MaskForm, MaskRow, Shares, Track
from store.errors import DataError

_ENDING = ".txt"
_FEWEST = 7
"""Numbers of a class and three points."""


def _recognises(given: Given) -> bool:
    """Whether the first line that is not blank in any of the files has numbers only: classes.txt, README.txt have not."""
    return any(_begins_with_numbers(file) for file in given.named(_ENDING))


def _begins_with_numbers(file: Path) -> bool:
    _, line = next(lines(file), (0, b""))
    return bool(_numbers(line))


def _rows(given: Given, track: Track) -> Iterator[MaskRow]:
    for file in track(given.named(_ENDING), "files"):
        image = given.image_of(file, _ENDING)
        try:
            for number, line in lines(file):
                yield _mask(line, f"{file} line {number}", image)
        except DataError as error:
            yield MaskRow(str(file), fault=str(error))


def _mask(line: bytes, where: str, image: str) -> MaskRow:
    numbers = _numbers(line)
    if len(numbers) < _FEWEST:
        boxed = " (class and box only: write masks, as with a model whose name ends in -seg)"
        got = f"{len(numbers)} numbers{boxed if len(numbers) in (5, 6) else ''}" if numbers else "other text"
        return MaskRow(where, fault=f"expected class x y x y x y ... [score], got {got}")
    scored = len(numbers) % 2 == 0
    points = numbers[1:-1] if scored else numbers[1:]
    return MaskRow(where, file_name=image, segmentation=Shares([points]), score=numbers[-1] if scored else UNSCORED)


def _numbers(line: bytes) -> list[float]:
    """The numbers of a line; [] where something is none."""
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return []


FORMS.add(
    MaskForm(
        name="yolo_labels",
        module=__name__,
        meaning="Ultralytics' .txt for each image: class x y x y ... [score], in shares of the image",
        recognises=_recognises,
        rows=_rows,
    )
)
