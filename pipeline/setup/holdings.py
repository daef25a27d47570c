"""Whether an item of the table of sources is on this machine, complete and with the right digest."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.progress import byte_bar
from pipeline.project import LoadedProject
from pipeline.setup.download import FetchError
from pipeline.setup.sources import Item, Source, destination, listed_images
from stages.datasets.choice import annotation_files, read
from store.errors import GlimpseError

_BLOCK = 1 << 20
_ABOUT = 0.05
"""How far the size of a file without a known digest may be from the rounded one that its publisher names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a file's digest says: ``verified`` against a known one, or else ``recorded`` before, or else new."""

    digest: str
    verified: bool
    recorded: bool


def digest_of(path: Path) -> str:
    """sha256 hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file, byte_bar(path.stat().st_size, f"sha256 of {path.name}") as advance:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def record_of(project: LoadedProject, item: Item) -> Path:
    """The file that keeps the digest of an item as it was fetched, in the form of ``sha256sum``: next to the item, or
    next to the folder that an archive was unpacked into."""
    return destination(project, item).with_name(f"{item.name}.sha256")


def recorded(project: LoadedProject, item: Item) -> str:
    """The digest in the item's record; "" without one."""
    path = record_of(project, item)
    words = path.read_text().split() if path.is_file() else []
    return words[0] if words else ""


def compare(project: LoadedProject, item: Item, file: Path) -> Verdict:
    """Whether ``file`` is the item, by its known digest or else by its recorded one, or else by its size.

    Raises:
        FetchError: it is another file.
    """
    digest, size, before = digest_of(file), file.stat().st_size, recorded(project, item)
    expected = f" where {'about ' if item.about else ''}{item.size:,} are expected" if item.size else ""
    sizes = f"{size:,} bytes{expected}"
    if item.digest and digest != item.digest:
        raise FetchError(f"{file}: expected sha256 {item.digest}, as in {item.digest_from}; got {digest} ({sizes})")
    if not item.digest and before and digest != before:
        raise FetchError(
            f"{file}: expected sha256 {before}, recorded in {record_of(project, item)}; got {digest} ({sizes})"
        )
    if item.size and not item.digest and not before and abs(size - item.size) > _ABOUT * item.size:
        raise FetchError(f"{file}: {sizes}; it is cut short, or another file")
    return Verdict(digest, bool(item.digest), bool(before))


def needed_files(project: LoadedProject, source: Source, item: Item) -> frozenset[str]:
    """Names of the files that an archive's folder must have; none where only their number is known.

    Raises:
        DataError: the annotation file that lists them is missing or damaged.
    """
    if item.archive is None:
        return frozenset()
    listed = item.archive.listed
    return listed_images(project, source, listed) if listed else frozenset(item.archive.holds)


def profile_files(project: LoadedProject, source: Source, item: Item) -> frozenset[str]:
    """Names of the files of an archive that the profile needs; of annotations that it does not choose, all.

    Images are those that the profile's annotations name, as far as these are there; for none of them, none.
    """
    archive, folder = item.archive, destination(project, item)
    if archive is None or archive.listed:
        return frozenset()
    chosen = project.values.index.datasets.items()
    root = project.path(project.values.index.annotations)
    if archive.holds:
        files = [f for name, choice in chosen for f in annotation_files(root, name, choice) if f.parent == folder]
        return frozenset(file.name for file in files) & frozenset(archive.holds) or frozenset(archive.holds)
    names: set[str] = set()
    for name, choice in chosen:
        if project.path(project.values.images, choice.images) == folder:
            with suppress(GlimpseError):  # not there yet, or not readable: preflight says so
                names |= {image.file_name for image in read(root, name, choice).images if not image.status}
    return frozenset(names)


def missing_files(project: LoadedProject, source: Source, item: Item) -> str:
    """What the folder of an archive lacks, in words; "" when all is there."""
    archive, folder = item.archive, destination(project, item)
    if archive is None or not folder.is_dir():
        return "all files"
    if archive.count:
        there = sum(1 for _ in folder.glob(archive.pattern))
        return f"{archive.count - there:,} of {archive.count:,} {archive.pattern}" if there < archive.count else ""
    names = needed_files(project, source, item)
    lost = names - {path.name for path in folder.iterdir()}
    return f"{len(lost):,} of {len(names):,} files (the first {min(lost)})" if lost else ""


def installed(package: str) -> str:
    """Version of an installed Python package; "" when it is not."""
    importlib.invalidate_caches()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
