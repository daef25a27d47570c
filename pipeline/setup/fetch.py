"""``glimpse fetch``: get the files of a source, check them, and put them where the profile expects them.

A file is downloaded to ``<file>.part``, its sha256 compared, and renamed; an archive is unpacked from there and removed.
The digest is recorded in ``<file>.sha256``: where none is known for certain, later fetches and ``glimpse doctor`` compare
with that record. What is there already, with the right digest, stays; another file in its place is never overwritten.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.progress import byte_bar
from pipeline.project import LoadedProject
from pipeline.runner import Execution
from pipeline.setup.download import FetchError, download
from pipeline.setup.holdings import compare, installed, missing_files, needed_files, profile_files, record_of, recorded
from pipeline.setup.sources import Archive, Item, Source, command, destination, listing_file
from pipeline.setup.unpack import ArchiveError, check_room, place, place_files, unpack, unpacked_bytes
from store.locks import locked
from store.publish import replacing, write_file


def fetch(
    project: LoadedProject, source: Source, given: Path | None, accepted: bool, say: Callable[[str], None] = print
) -> None:
    """Get everything of ``source`` that is not there yet.

    Args:
        given: a file or folder that the user has, used instead of the network; it is linked or copied, never moved.
        accepted: whether the user accepts the licence.

    Raises:
        FetchError: the licence is not accepted, no connection, a wrong digest, a damaged archive, or another file in
            the way; one line.
    """
    if source.package and installed(source.package[0]) == source.package[1]:
        say(f"{' '.join(source.package)} is installed already")
        return
    with locked(project.path(project.values.work, "fetch", source.name), Execution.from_environment().wait):
        run = _Fetch(project, source, given, accepted, say)
        fetched = [run.item(item) for item in source.items]
        if not any(fetched):
            raise FetchError(f"{given}: expected {' or '.join(run.names())}, or a folder with it, found none")
        run.finish()


@dataclass
class _Fetch:
    """One run of the command for one source."""

    project: LoadedProject
    source: Source
    given: Path | None
    accepted: bool
    say: Callable[[str], None]
    licence_shown: bool = False

    def names(self) -> list[str]:
        return [item.name for item in self.source.items]

    def item(self, item: Item) -> bool:
        """Get one item; False if the user's folder or file does not have it."""
        if self._is_there(item):
            return True
        self._tell_licence()
        path = self._of_user(item) if self.given else None
        if self.given is None:
            self._download(item)
        elif path is None:
            self.say(f"{item.name}: not in {self.given}")
        elif item.archive and path.is_dir():
            self._place_folder(item, item.archive, path)
        elif item.archive:
            digest = self._check(item, path, "give another copy with --from")
            self._unpack(item, item.archive, path)
            self._keep(item, digest)
        else:
            with replacing(destination(self.project, item)) as temporary:
                place(path, temporary)
                self._keep(item, self._check(item, temporary, f"give another file than {path}"))
            self.say(f"{destination(self.project, item)}: there")
        return self.given is None or path is not None

    def finish(self) -> None:
        """Install a package; say what still lacks."""
        if self.source.package:
            _install(destination(self.project, self.source.items[0]), *self.source.package)
            self.say(f"{' '.join(self.source.package)} is installed")
        listed = [item for item in self.source.items if item.archive and item.archive.listed]
        if listed and all(self._list_is_there(item) for item in listed):
            lost = missing_files(self.project, self.source, listed[0])
            records = " ".join(str(record_of(self.project, item)) for item in listed)
            if lost and all(recorded(self.project, item) for item in listed):
                raise FetchError(
                    f"{destination(self.project, listed[0])}: {lost} are missing, though {' and '.join(self.names())} "
                    f"were unpacked; give them with --from, or remove {records} and fetch again"
                )
        if self.source.note:
            self.say(f"note: {self.source.note}")

    def _tell_licence(self) -> None:
        if not self.licence_shown:
            self.say(f"{self.source.what}; licence: {self.source.licence}")
        self.licence_shown = True
        if self.source.accept and not self.accepted:
            raise FetchError(f"{self.source.name}: read its licence; if you accept it, add --accept-license")

    def _is_there(self, item: Item) -> bool:
        """Whether nothing is to be done for an item.

        Raises:
            FetchError: another file stands in its place.
        """
        target = destination(self.project, item)
        if not item.archive:
            if os.path.lexists(target):
                remedy = f"move it away, then: {command(self.project, self.source)}"
                self._keep(item, self._check(item, target, remedy))
                self.say(f"{target}: already there")
            return os.path.lexists(target)
        # The images of one list come from several archives: each of these is done once it was unpacked.
        done = item.archive.listed and recorded(self.project, item)
        if not done and (not self._list_is_there(item) or missing_files(self.project, self.source, item)):
            return False
        self.say(f"{target}: {item.name} is unpacked already")
        return True

    def _list_is_there(self, item: Item) -> bool:
        listed = item.archive.listed if item.archive else ""
        return not listed or listing_file(self.project, self.source, listed).is_file()

    def _check(self, item: Item, file: Path, remedy: str) -> str:
        """Compare a file with the item's digest, and say what came of it; returns the file's digest.

        Raises:
            FetchError: it is another file; ends with ``remedy``.
        """
        try:
            verdict = compare(self.project, item, file)
        except FetchError as error:
            raise FetchError(f"{error}; {remedy}") from error
        record = record_of(self.project, item)
        if verdict.verified:
            known = f"as in {item.digest_from}"
        elif verdict.recorded:
            known = f"as recorded in {record}; no published digest is known"
        else:
            known = (
                "could NOT be verified: no published digest is known. Compare it with what others have; from now on it "
                f"is compared with {record}"
            )
        self.say(f"{item.name}: sha256 {verdict.digest}, {known}")
        return verdict.digest

    def _keep(self, item: Item, digest: str) -> None:
        """Record the digest of an item that is in its place; for an archive, of one that is unpacked."""
        if recorded(self.project, item) != digest:
            write_file(record_of(self.project, item), f"{digest}  {item.name}\n")

    def _download(self, item: Item) -> None:
        target = destination(self.project, item)
        part = target.with_name(f"{item.name}.part")
        have = part.stat().st_size if part.is_file() else 0
        check_room(part.parent, item.size * (2 if item.archive and not item.archive.listed else 1) - have)
        if not item.digest or have != item.size:  # else all of it came before
            size = f"{'about ' if item.about else ''}{item.size:,} bytes" if item.size else "no size is published,"
            self.say(f"{item.name}: {size} from {item.host}")
            try:
                with byte_bar(item.size, item.name) as advance:
                    download(item.url, part, 0 if item.about else item.size, advance)
            except FetchError as error:
                raise FetchError(
                    f"{item.name}: {item.host} did not give it: {error}; if you have it, or can get it elsewhere (it is "
                    f"{item.url}), then: {command(self.project, self.source)} --from PATH"
                ) from error
        try:
            digest = self._check(item, part, "what came was removed; fetch again, or give a file with --from")
        except FetchError:
            part.unlink()
            raise
        if item.archive:
            try:
                self._unpack(item, item.archive, part)
            except ArchiveError as error:
                part.unlink()
                raise FetchError(f"{error}; what came was removed; fetch again, or give a file with --from") from error
            part.unlink()
        else:
            os.replace(part, target)
            self.say(f"{target}: there")
        self._keep(item, digest)

    def _of_user(self, item: Item) -> Path | None:
        """The user's file for an item, or the folder that may hold an archive's files; None for neither."""
        assert self.given
        names = (item.name, *item.other_names)
        if self.given.is_file():
            of_another = any(self.given.name in (i.name, *i.other_names) for i in self.source.items if i is not item)
            mine = self.given.name in names or (item is self.source.items[0] and not of_another)
            return self.given if mine else None
        if not self.given.is_dir():
            raise FetchError(f"{self.given}: no such file or folder; --from takes {item.name}, or a folder with it")
        file = next((self.given / name for name in names if (self.given / name).is_file()), None)
        return file or (self.given if item.archive else None)

    def _unpack(self, item: Item, archive: Archive, file: Path) -> None:
        folder = destination(self.project, item)
        wanted = needed_files(self.project, self.source, item) if archive.listed else None
        picked = {name: name for name in archive.holds} | dict(archive.aliases) if archive.picked else None
        with byte_bar(unpacked_bytes(file), f"unpacking {item.name}") as advance:
            number = unpack(file, folder, archive.strip, wanted, advance, picked)
        if archive.picked and (lost := missing_files(self.project, self.source, item)):
            raise ArchiveError(f"{file}: expected a zip file with {', '.join(archive.holds)}, it lacks {lost}")
        self.say(f"{folder}: {number:,} files of {item.name}")

    def _place_folder(self, item: Item, archive: Archive, given: Path) -> None:
        """Take the files of an archive from a folder into which the user unpacked it."""
        places = [given / top for top in archive.strip if (given / top).is_dir()] or [given]
        if archive.count:
            files = {path.name: path for place in places for path in sorted(place.glob(archive.pattern))}
        else:
            names = {name: name for name in needed_files(self.project, self.source, item)}
            known = (dict(archive.aliases) | names).items()
            files = {name: place / theirs for place in places for theirs, name in known if (place / theirs).is_file()}
        needed = profile_files(self.project, self.source, item)
        lacking = needed - files.keys()
        if not files or lacking or (not needed and len(files) < archive.count):
            what = ", ".join(archive.holds) or archive.pattern
            first = f", and not {min(lacking)}, which the profile needs" if files and lacking else ""
            raise FetchError(
                f"{given}: expected what {item.name} unpacks to ({what}), found {len(files):,} files of it{first}"
            )
        folder = destination(self.project, item)
        with byte_bar(sum(file.stat().st_size for file in files.values()), item.name) as advance:
            place_files(files, folder, advance)
        self.say(f"{folder}: {len(files):,} files from {given}, which no sha256 of the archive can vouch for")


def _install(wheel: Path, package: str, version: str) -> None:
    """Install a wheel into this Python from the file alone: no dependencies, no index.

    Raises:
        FetchError: pip fails.
    """
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(wheel)], capture_output=True, text=True, check=False
    )
    if done.returncode or installed(package) != version:
        reason = " ".join(done.stderr.split()) or f"found {installed(package) or 'nothing'} instead of {version}"
        raise FetchError(f"{wheel}: pip did not install it: {reason}")
