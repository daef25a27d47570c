"""Loaders of what computes units, identified by content: any process that loads one computes the same values, or fails.

Without this, a process that outlives a run (a dask worker) would keep the weights, tables and code of an earlier run, and
store its results under the keys of a later one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from store.computing import computing_digest
from store.errors import CodeError, StoreError
from store.fingerprint import PACKAGES, ROOT, file_identity, loaded_file, module_path, source_files
from store.registry import PACKAGE as EXTENSIONS
from store.registry import extension_digests
from store.table import content_digest
from store.units import Compute, Load
from store.work import Parts

_RESTART = "restart the dask workers, if this is one, and run the same command again"
_started = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_bytes()
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
"""Source of every module at the time when this one was imported."""


@dataclass(frozen=True)
class Loader:
    """A ``store.units.Load`` with all that its results depend on; it can be sent to another process.

    Attributes:
        load: builds the models on a device.
        kinds: kind of result -> config key of its parts (parameters, digests of weights and code, library versions).
        reads: file that ``load`` reads -> its digest (``store.table.content_digest``) as the keys of the parts have it.
        code: module -> digest of what it computes, of all that ``load`` uses, as the files have it.
        extensions: module of an addition from outside -> digest of its file.
        libraries: library -> version, as the keys of the parts have it (in their config, under "libraries").
    """

    load: Load
    kinds: Mapping[str, str]
    reads: Mapping[Path, str]
    code: Mapping[str, str]
    extensions: Mapping[str, str]
    libraries: Mapping[str, str]

    @classmethod
    def of(
        cls, load: Load, kinds: Mapping[str, Parts], reads: Mapping[Path, str], modules: Iterable[str] = ()
    ) -> Loader:
        """The loader of what is missing of ``kinds``.

        Args:
            modules: modules that ``load`` imports by name, in addition to its own module's imports.
        """
        function = load.func if isinstance(load, partial) else load
        libraries = {n: version for parts in kinds.values() for n, version in parts.config.get("libraries", {}).items()}
        return cls(
            load,
            kinds={kind: parts.folder.name for kind, parts in sorted(kinds.items())},
            reads=dict(sorted(reads.items())),
            code=code_of(function.__module__, *modules),
            extensions=extension_digests(),
            libraries=dict(sorted(libraries.items())),
        )

    def __call__(self, device: str) -> Compute:
        """Load on ``device``.

        Raises:
            CodeError: this process has loaded other code.
            StoreError: a file differs from the one that the run read.
        """
        require_loaded(self.code)
        if self.extensions != extension_digests():
            other = sorted(n for n, _ in self.extensions.items() ^ extension_digests().items())
            raise CodeError(f"{', '.join(other)}: this process has loaded another file than the run; {_RESTART}")
        before = {path: file_identity(path) for path in self.reads}
        for path, digest in self.reads.items():
            actual = content_digest(path)
            if actual != digest:
                raise _replaced(path, digest, actual)
        compute = self.load(device)
        for path, identity in before.items():
            if file_identity(path) != identity:
                raise _replaced(path, self.reads[path], "one written meanwhile")
        return compute


def code_of(*modules: str) -> dict[str, str]:
    """The digest of what each module computes, of ``modules`` and all that they import, from their files.

    Modules without a file (typed in, or pickled by value) and extensions are left out.
    """
    known = [name for name in modules if name.partition(".")[0] in PACKAGES or loaded_file(name) is not None]
    files = {name: path for name, path in source_files(*known).items() if name.partition(".")[0] != EXTENSIONS}
    return {name: _short(path.read_bytes()) for name, path in files.items()}


def _short(source: bytes) -> str:
    return computing_digest(source)[:16]


def require_loaded(code: Mapping[str, str]) -> None:
    """Import the modules of ``code`` (see ``code_of``), so that later edits have no effect.

    Raises:
        CodeError: this process has loaded, or would load, a module with another digest.
    """
    known = set(sys.modules)
    other = []
    for name, digest in code.items():
        internal = name.partition(".")[0] in PACKAGES
        if internal:
            import_module(name)
        file = module_path(name) if internal else loaded_file(name)
        if file is None and not internal:
            continue  # it was pickled with the function
        now = b"" if file is None else file.read_bytes()
        loaded = _started.setdefault(name, now)
        if any(_short(source) != digest for source in ([loaded] if name in known else [loaded, now])):
            other.append(name)
    if other:
        raise CodeError(f"{', '.join(other)}: this process has loaded other code than the run's files; {_RESTART}")


def _replaced(path: Path, expected: str, actual: str) -> StoreError:
    return StoreError(
        f"{path}: expected the file that this run began with ({expected[:16]}), found another ({actual[:16]}): it was replaced "
        "meanwhile, or a worker sees other files; run the same command again"
    )
