"""The sources of mask proposals: one record each.

``from_freesolo.py``, ``from_masks.py`` and ``from_instances.py`` add theirs (stage ``propose`` imports them), a file of the
profile's ``extensions/proposals`` its own. Whoever wants to know something about a source asks its record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.contract import Context, Summary
from store.errors import DataError
from store.fingerprint import file_digest, fingerprint
from store.registry import Record, Registry
from store.table import Table
from store.work import Item

Found = tuple[list[Item], dict[str, Any]]
"""An item for each image of the index (whatever it is for one that cannot be used), and what the items depend on."""


@dataclass(frozen=True)
class Request:
    """What a source is asked for: proposals of all images of an index.

    Attributes:
        values: the parameters of section ``propose`` that the source's record names.
        input: the file or folder that ``propose.input`` names.
        images: the folder of the images.
        index: columns of the index table: image_name, image_id, image_size, image_digest, image_status, and the annotated
            objects of each image, instance_offsets and instance_mask.
        summary: takes what was read, skipped and worth a warning.
        published: where the stage's output lies, perhaps of an earlier run.
        parts, keys: take what the output says of the parts that it is made of: kind -> configuration, row of the index -> key.
    """

    values: Mapping[str, Any]
    input: Path
    images: Path
    index: Table
    context: Context
    summary: Summary
    published: Path
    parts: dict[str, str] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)

    def input_digest(self) -> str:
        """sha256 hex digest of the input.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return file_digest(self.input)
        except OSError as error:
            raise DataError(
                f"{self.input}: expected the file that propose.input names, it cannot be read ({error.strerror}); put it "
                f"there, or correct propose.input or propose.source"
            ) from error

    def contents_digest(self) -> str:
        """sha256 hex digest of the input, for a folder of the names and contents of all files below it.

        Raises:
            DataError: it cannot be read.
        """
        if not self.input.is_dir():
            return self.input_digest()
        try:
            files = sorted(file for file in self.input.rglob("*") if file.is_file())
            return fingerprint([[file.relative_to(self.input).as_posix(), file_digest(file)] for file in files])
        except OSError as error:
            raise DataError(
                f"{error.filename}: expected a file below the folder that propose.input names, it cannot be read "
                f"({error.strerror}); give the right to read it, or correct propose.input"
            ) from error


@dataclass(frozen=True, kw_only=True)
class ProposalSource(Record):
    """A source of mask proposals.

    Attributes:
        propose: what gives an item for each image of the index. Raises DataError for an input that cannot be used.
        parameters: those of section ``propose`` that it uses, besides ``source``, ``input`` and ``box``.
        input: what ``propose.input`` is, for those who put it there; "" where it is not read.
        input_is_weights: whether it is the weights of a network.
    """

    propose: Callable[[Request], Found]
    parameters: tuple[str, ...] = ()
    input: str = ""
    input_is_weights: bool = False


SOURCES: Registry[ProposalSource] = Registry("proposal source", room="proposals")
