"""``glimpse fetch data NAME`` for a data set of the profile whose annotation files hold the pictures themselves (Parquet).

The files are the user's: nothing is downloaded. Each picture is written once into the data set's folder of images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pipeline.progress import byte_bar
from pipeline.project import LoadedProject
from pipeline.setup.download import FetchError
from pipeline.setup.unpack import place_files
from stages.datasets.fields import unsafe_name
from stages.datasets.registry import KINDS, Choice
from store.publish import write_file, writing


def holds_pictures(project: LoadedProject, name: str) -> bool:
    """Whether ``name`` is a data set of the profile whose files may hold pictures."""
    choice = project.values.index.datasets.get(name)
    return choice is not None and KINDS[choice.kind].pictures is not None


def unpack_pictures(project: LoadedProject, name: str, given: Path | None, say: Callable[[str], None] = print) -> None:
    """Put the annotation files of data set ``name`` from ``given`` into their place, and their pictures into the image folder.

    Args:
        given: a folder with the files, as it was downloaded; None where they lie in their place already.

    Raises:
        FetchError: there are no such files, a picture's name leaves the folder, or another file is in a picture's place.
        DataError, ParameterError: a file cannot be read, or has no pictures.
    """
    choice = project.values.index.datasets[name]
    root, folder = project.path(project.values.index.annotations), choice.folder or name
    if given is not None:
        _place(choice, given, root / folder, say)
    if not any(file.is_file() for file in KINDS[choice.kind].files(root / folder, choice)):
        raise FetchError(
            f"{root / folder}: expected {KINDS[choice.kind].layout}, found none; put them there, or: glimpse fetch data {name} "
            f"--from FOLDER"
        )
    place = project.path(project.values.images) / choice.images
    pictures = KINDS[choice.kind].pictures
    assert pictures is not None
    new = there = 0
    for file_name, data in pictures(root, folder, choice):
        if unsafe_name(file_name):
            raise FetchError(f"{root / folder}: {unsafe_name(file_name)}; nothing more was unpacked, take another copy")
        if _write(place / PurePosixPath(file_name), data):
            new += 1
        else:
            there += 1
    say(f"{place}: {new:,} pictures of {name} unpacked, {there:,} were there")


def _place(choice: Choice, given: Path, target: Path, say: Callable[[str], None]) -> None:
    if not given.is_dir():
        raise FetchError(f"{given}: no such folder; --from takes the folder with {KINDS[choice.kind].layout}")
    files = [file for file in KINDS[choice.kind].files(given, choice) if file.is_file()]
    if not files:
        raise FetchError(f"{given}: expected {KINDS[choice.kind].layout}, found none")
    if given.resolve() == target.resolve():
        return
    named = {file.relative_to(given).as_posix(): file for file in files}
    for name in named:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    with byte_bar(sum(file.stat().st_size for file in files), target.name) as advance:
        place_files(named, target, advance)
    say(f"{target}: {len(files):,} files from {given}")


def _write(path: Path, data: bytes) -> bool:
    """Write a picture; False if it was there already."""
    if path.exists():
        if path.stat().st_size != len(data) or path.read_bytes() != data:
            raise FetchError(
                f"{path}: another picture than that of the annotations stands there; move it away, or give the data set a "
                f"folder of its own (index.datasets, images)"
            )
        return False
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    return True
