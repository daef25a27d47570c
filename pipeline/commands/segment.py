"""``glimpse segment``: one picture and some phrases, by the stages themselves, in a folder that is removed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.commands.pictures import Pictures
from pipeline.commands.predict import Asked, as_row, caption, mask_file, pixels, predict, said
from pipeline.project import LoadedProject
from pipeline.runner import Execution
from stages.page.overlay import FORMATS, encoded, overlay
from store.errors import ParameterError
from store.images import read_image
from store.publish import write_file
from store.table import read_table

_DEMO_NOTE = "note: these weights know only RefShapes, drawn shapes; on a photograph their answer means nothing"


def segment_file(
    project: LoadedProject,
    file: Path,
    phrases: Sequence[str],
    out: Path | None,
    mask: Path | None = None,
    asked: Asked | None = None,
    execution: Execution | None = None,
) -> list[dict[str, Any]]:
    """Segment the picture in ``file`` by each of ``phrases``.

    Args:
        out: of the overlay, mask: of the chosen mask, 255 inside; None for none. With several phrases the number of each
            is added to the name.

    Returns:
        A row for each phrase (`as_row`), with ``text`` for people, ``picture`` and ``mask_file``.

    Raises:
        ParameterError: no such file, a file name that says no format; and as `predict`.
        DataError: the picture cannot be used, or all phrases are blank.
    """
    for path, known in ((out, tuple(FORMATS)), (mask, (".png",))):
        if path is not None and path.suffix.lower() not in known:
            raise ParameterError(f"{path}: expected a file name that ends in {', '.join(known)}; name another")
    if not file.is_file():
        raise ParameterError(
            f"{file}: expected a picture, found no such file; correct the path (a folder of pictures: glimpse predict)"
        )
    pictures = Pictures(file.absolute().parent, (file.name,))
    rows = [{"image": file.name, "phrase": phrase} for phrase in phrases]
    with TemporaryDirectory(prefix="glimpse-") as folder:
        own, found = predict(
            project, pictures, rows, Path(folder), asked or Asked(), execution or Execution.from_environment()
        )
        index = read_table(own.table("index.h5"), "index", ("image_name", "image_digest"))
        picture = read_image(pictures.root, file.name, index["image_digest"][0])
    results = []
    for prediction in found:
        number = prediction.expression_id if len(found) > 1 else None
        files = {"picture": _numbered(out, number), "mask_file": _numbered(mask, number)}
        inside = pixels(prediction) if prediction.proposal >= 0 else None
        if files["picture"] is not None:
            drawn = overlay(picture, choice=inside, caption=caption(prediction), width=max(640, picture.width))
            write_file(files["picture"], encoded(drawn, files["picture"].suffix))
        if files["mask_file"] is not None and inside is not None:
            write_file(files["mask_file"], mask_file(inside))
        results.append(
            as_row(prediction)
            | {"text": said(prediction), "picture": _shown(files["picture"])}
            | {"mask_file": _shown(files["mask_file"]) if inside is not None else None}
        )
    return results


def print_segments(project: LoadedProject, results: Sequence[dict[str, Any]]) -> None:
    """A line for each phrase, and what the demo's weights are worth."""
    for row in results:
        files = " ".join(file for file in (row["picture"], row["mask_file"]) if file)
        print(f"{row['phrase']!r}: {row['text']}{files and f'; {files}'}")
    if "refshapes" in project.values.main_encoder.weights.name:
        print(_DEMO_NOTE)


def _numbered(path: Path | None, number: int | None) -> Path | None:
    return path if path is None or number is None else path.with_stem(f"{path.stem}-{number}")


def _shown(path: Path | None) -> str | None:
    return None if path is None else str(path)
