"""The sources of mask proposals: one record each.

``from_freesolo.py``, ``from_masks.py`` and ``from_instances.py`` add theirs (stage ``propose`` imports them), a file of the
profile's ``extensions/proposals`` its own. Whoever wants to know something about a source asks its record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from stages.contract import Context, Summary
from stages.proposals.boxes import BoxRule
from stages.proposals.items import Proposals
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
    """

    values: Mapping[str, Any]
    input: Path
    images: Path
    index: Table
    context: Context
    summary: Summary

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


class ImageProposer(Protocol):
    """Proposes masks for an image that no data set has."""

    def propose(self, image: Image.Image) -> Proposals:
        """Proposals of one PIL image."""


@dataclass(frozen=True, kw_only=True)
class ProposalSource(Record):
    """A source of mask proposals.

    Attributes:
        propose: what gives an item for each image of the index. Raises DataError for an input that cannot be used.
        parameters: those of section ``propose`` that it uses, besides ``source``, ``input`` and ``box``.
        input: what ``propose.input`` is, for those who put it there; "" where it is not read.
        input_is_weights: whether it is the weights of a network.
        image_proposer: (input, values of ``parameters``, rule of the boxes, torch device) -> what proposes for any image;
            None for a source that knows the images of the index only.
    """

    propose: Callable[[Request], Found]
    parameters: tuple[str, ...] = ()
    input: str = ""
    input_is_weights: bool = False
    image_proposer: Callable[[Path, Mapping[str, Any], BoxRule, str], ImageProposer] | None = None


SOURCES: Registry[ProposalSource] = Registry("proposal source", room="proposals")
