"""Putting the files of an archive, or of a folder that the user has, into their place; no path leaves it."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pipeline.setup.download import FetchError
from store.memory import MOST_UNFOLDED, most_unfolded
from store.publish import writing

_BLOCK = 1 << 20
_TEMPORARY = ".unpacking"


class ArchiveError(FetchError):
    """An archive is damaged or hostile: another copy of it is needed."""


def unpack(
    archive: Path,
    folder: Path,
    strip: Collection[str],
    wanted: Collection[str] | None,
    advance: Callable[[int], None],
    picked: Mapping[str, str] | None = None,
) -> int:
    """Unpack a zip file into ``folder``; returns how many files of it are there now.

    Every file appears completely or not at all; one that is there with the same bytes stays, so an interrupted unpacking
    goes on. What macOS adds (``__MACOSX``) is left out.

    Args:
        strip: top folders of the archive that are left away.
        wanted: paths to unpack, all if None.
        advance: called with the number of bytes unpacked.
        picked: name of a file in any folder of the archive -> name below ``folder``, where these are all that is wanted;
            of two files for one name the one that is called so counts.

    Raises:
        ArchiveError: no zip file, a damaged one, or a path that leaves ``folder`` (nothing is written then).
        FetchError: too little disk room, or a file in ``folder`` that differs.
    """
    try:
        with writing(folder), zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive, strip, wanted, picked)
            unfolded, size = sum(info.file_size for info in members.values()), archive.stat().st_size
            if unfolded > most_unfolded(size):
                raise ArchiveError(
                    f"{archive}: {size:,} bytes would unfold to {unfolded:,}, more than {MOST_UNFOLDED} times as many; "
                    "nothing was unpacked"
                )
            folder.mkdir(parents=True, exist_ok=True)
            check_room(folder, sum(info.file_size for info in members.values()))
            for name, info in members.items():
                _extract(opened, info, folder / name, folder / _TEMPORARY)
                advance(info.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ArchiveError(f"{archive}: not a zip file that can be read: truncated or damaged ({error})") from error
    finally:
        with suppress(OSError):  # it must not hide the first error; the next unpacking writes over it
            (folder / _TEMPORARY).unlink(missing_ok=True)
    return len(members)


def unpacked_bytes(archive: Path) -> int:
    """Bytes of an archive's files, for a progress bar; 0 for a file that is no archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(info.file_size for info in opened.infolist())
    except (zipfile.BadZipFile, OSError):
        return 0


def place(file: Path, target: Path) -> None:
    """A second name for the user's ``file`` at ``target``, or a copy where the file system cannot; never moves it."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def place_files(files: Mapping[str, Path], folder: Path, advance: Callable[[int], None]) -> None:
    """Place the user's files (path below ``folder`` -> file) in ``folder``; those that are there stay."""
    temporary = folder / _TEMPORARY
    for name, file in files.items():
        if not (folder / name).exists():
            with writing(folder / name):
                folder.mkdir(parents=True, exist_ok=True)
                temporary.unlink(missing_ok=True)
                place(file, temporary)
                os.replace(temporary, folder / name)
        advance(file.stat().st_size)


def check_room(folder: Path, need: int) -> None:
    """Whether ``need`` bytes fit where ``folder`` is, or will be.

    Raises:
        FetchError: they do not.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need:
        raise FetchError(f"{folder}: about {need:,} bytes are needed, {free:,} are free; make room")


def _members(
    opened: zipfile.ZipFile,
    archive: Path,
    strip: Collection[str],
    wanted: Collection[str] | None,
    picked: Mapping[str, str] | None,
) -> dict[str, zipfile.ZipInfo]:
    """Path below the folder -> entry of the archive."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in opened.infolist():
        path = PurePosixPath(info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
            raise ArchiveError(f"{archive}: {info.filename!r} would leave the folder; nothing was unpacked")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{archive}: {info.filename!r} is a link or a device; nothing was unpacked")
        if info.is_dir() or path.parts[0] == "__MACOSX":
            continue
        name = "/".join(path.parts[path.parts[0] in strip and len(path.parts) > 1 :])
        if picked is not None:
            if path.name not in picked:
                continue
            name = picked[path.name]
            earlier = PurePosixPath(members[name].filename).name if name in members else name
            if path.name != name and name in members:
                continue  # its proper name counts before another one
            if earlier != name:
                del members[name]
        if name in members:
            raise ArchiveError(f"{archive}: has {name!r} twice; nothing was unpacked")
        if wanted is None or name in wanted:
            members[name] = info
    return members


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, temporary: Path) -> None:
    if target.is_file() and _same(target, info):
        return
    if os.path.lexists(target):
        raise FetchError(f"{target}: another file than the archive's stands there; move it away, then fetch again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(info) as source, temporary.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
    os.replace(temporary, target)


def _same(file: Path, info: zipfile.ZipInfo) -> bool:
    if file.stat().st_size != info.file_size:
        return False
    check = 0
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            check = zlib.crc32(block, check)
    return check == info.CRC
