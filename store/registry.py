"""Registries of what can be added to Glimpse by name, one record each, and the extension files that add to them.

A room (a folder of ``stages`` such as ``datasets``) has one registry. A module of that room, or a Python file of the same
room in the profile's ``extensions`` folder, builds a record and adds it; whoever needs the names asks the registry.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Generic, TypeVar

from store.errors import ParameterError, nearest
from store.fingerprint import PACKAGES, code_digest, file_digest, fingerprint, imported_names, module_path

ROOMS = ("datasets", "proposals", "clip", "views", "heat_maps", "rules", "exports")
"""The folders of an ``extensions`` folder."""
PACKAGE = "glimpse_extensions"
"""The file ``<extensions>/<room>/<stem>.py`` is the module ``glimpse_extensions.<room>.<stem>``."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of what a registry holds.

    Attributes:
        name: how params.yaml calls it.
        module: ``__name__`` of the file that adds it.
    """

    name: str
    module: str

    @property
    def built_in(self) -> bool:
        """Whether the package adds it, and no file of a profile's extensions."""
        return self.module.partition(".")[0] != PACKAGE


R = TypeVar("R", bound=Record)


class Registry(Mapping[str, R], Generic[R]):
    """Records by name, in the order in which they were added.

    Args:
        what: what a record is, for messages: "data set kind".
        room: the folder of an ``extensions`` folder whose files may add records.
    """

    _all: ClassVar[list[Registry[Record]]] = []

    def __init__(self, what: str, room: str) -> None:
        self.what, self.room = what, room
        self._records: dict[str, R] = {}
        Registry._all.append(self)  # type: ignore[arg-type]

    def add(self, record: R) -> None:
        """Add a record. The same module may add it again, when it is reloaded.

        Raises:
            ParameterError: another module has added this name, or the file that adds it stands in another room.
        """
        known = self._records.get(record.name)
        if known is not None and known.module != record.module:
            raise ParameterError(
                f"{self.what} {record.name!r} is known already, {known.module} adds it; take another name"
            )
        top, _, rest = record.module.partition(".")
        if top == PACKAGE and rest.partition(".")[0] != self.room:
            raise ParameterError(
                f"{self.what} {record.name!r} is added by a file of {rest.partition('.')[0]}/; move it to {self.room}/"
            )
        self._records[record.name] = record

    def __getitem__(self, name: str) -> R:
        """The record of that name.

        Raises:
            ParameterError: there is none; with the nearest name and all of them.
        """
        if name not in self._records:
            raise ParameterError(self._unknown(name))
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def checked(self, name: str) -> str:
        """``name``, if it is one of the registry; for a pydantic field: ``Annotated[str, AfterValidator(KINDS.checked)]``.

        Raises:
            ValueError: it is not; with the nearest name and all of them.
        """
        if name not in self._records:
            raise ValueError(self._unknown(name))
        return name

    def _unknown(self, name: str) -> str:
        place = f"; none of that name is added in {_state.folder / self.room}" if _state.folder else ""
        return f"there is no {self.what} {name!r}; {nearest(name, self._records)}{place}"

    def _forget(self, top: str) -> None:
        """Drop what the modules below ``top`` added."""
        self._records = {n: r for n, r in self._records.items() if not r.module.startswith(f"{top}.")}


def record_digest(record: Record) -> str:
    """sha256 hex digest of the code of a record: its module and all that this imports of Glimpse.

    A file outside counts as it is, to the byte; a module of Glimpse as ``code_digest`` reads it.
    """
    if record.module.partition(".")[0] != PACKAGE:
        return code_digest(record.module)
    file = Path(str(sys.modules[record.module].__file__))
    used = {name for name in imported_names(file) if name.partition(".")[0] in PACKAGES and module_path(name)}
    return fingerprint([file_digest(file), [[name, code_digest(name)] for name in sorted(used)]])


@dataclass
class _Extensions:
    """What this process has loaded: the folder, and the content digest of each file."""

    folder: Path | None = None
    digests: dict[str, str] | None = None


_state = _Extensions()


def extensions_folder() -> Path | None:
    """The folder that ``load_extensions`` was given last, for other processes to load it too."""
    return _state.folder


def extension_digests() -> dict[str, str]:
    """Module of an addition that this process has loaded -> digest of its file."""
    return dict(_state.digests or {})


def load_extensions(folder: Path) -> bool:
    """Run every Python file in the rooms of ``folder``, so that each adds its records; do nothing if none changed.

    This process then knows the additions of this folder only. A folder that does not exist has none.

    Returns:
        Whether anything changed since the last call.

    Raises:
        ParameterError: a file cannot be run or adds nothing; with the file and line.
    """
    folder = folder.resolve()
    files = {f"{PACKAGE}.{room}.{file.stem}": file for room in ROOMS for file in sorted((folder / room).glob("*.py"))}
    digests = {name: file_digest(file) for name, file in files.items()}
    if (folder, digests) == (_state.folder, _state.digests):
        return False
    _forget_extensions()
    _state.folder = folder
    try:
        for name, file in files.items():
            _load(name, file)
    except BaseException:
        _forget_extensions()
        raise
    _state.digests = digests
    return True


def _forget_extensions() -> None:
    _state.digests = None
    for registry in Registry._all:
        registry._forget(PACKAGE)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def _load(name: str, file: Path) -> None:
    """Run ``file`` as module ``name``. Not by the import system, which would leave its bytecode in the folder: DVC looks
    at everything that lies there."""
    for package in (PACKAGE, name.rpartition(".")[0]):
        sys.modules.setdefault(package, ModuleType(package))
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise ParameterError(
            f"{file}:{_line(error, file)}: {type(error).__name__}: {error}; correct the file, or move it out of "
            f"{file.parent}"
        ) from error
    if not any(record.module == name for registry in Registry._all for record in registry.values()):
        raise ParameterError(
            f"{file}:1: it adds nothing; build a record with module=__name__ and add it to the registry of its room, or "
            f"move the file out of {file.parent}"
        )


def _line(error: BaseException, file: Path) -> int:
    """The line of ``file`` at which ``error`` came up."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno or 1
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    return lines[-1] if lines else 1
