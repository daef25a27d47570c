"""Kinds of heat maps that are not linear in the text, so that no vector of a mask can stand for them, and their registry.

A kind makes one small map of an image and a phrase on a grid of its own. Stage heat keeps the maps and their means inside
every mask. A kind is a file of this folder with one record; everything that lists kinds asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.contract import Params
from store.errors import DataError, ParameterError
from store.registry import Record, Registry
from store.table import Table

if TYPE_CHECKING:
    from PIL.Image import Image


class Source(NamedTuple):
    """The file of a map that a kind reads instead of computing it.

    Attributes:
        file: below ``heat.folder``, "" for none. digest: sha256 of its content, "" where it is not there.
        fault: why it cannot be used, whatever its content.
    """

    file: str
    digest: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Asked:
    """A map that is asked for: an image and a distinct phrase about it.

    Attributes:
        image: row of the index. sentence: the clean sentence. phrase: the noun phrase of its target.
        others: its other noun phrases. raw: the sentences as annotated that read so.
        sources: kind -> the map's file, of kinds that read files.
    """

    image: int
    sentence: str
    phrase: str
    others: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Opening:
    """What a kind is opened with, in each process that computes.

    Attributes:
        settings: of the kind's own type. folder: ``heat.folder``.
        encoder: its ``model``, ``weights``, ``precision`` and ``image_size``.
        device: of torch. batch: rows of a forward pass, None for the default.
        shared: for what several kinds of one process have in common, such as the loaded encoder.
    """

    settings: Any
    folder: Path
    encoder: Mapping[str, Any]
    device: str = "cpu"
    batch: int | None = None
    shared: dict[str, Any] = field(default_factory=dict)


Heat = NDArray[np.float32]
"""A map, float32 (rows, columns), the first row at the top; its cells tile the image."""
Made = Sequence[Heat | DataError]
Maker = Callable[["Image | None", Sequence[Asked]], Made]
"""``(image, asked)``, all of one image (PIL RGB; None for a kind that reads none) -> for each the map, or why there is none."""
Locate = Callable[[Path, Table, Sequence[Asked]], tuple[list[Source], list[str]]]
"""``(folder, index, asked)`` -> the file of each map, and what is wrong in the folder."""

Files = Callable[[Path, Any], dict[str, Path]]
"""``(folder, settings)`` -> the files of a kind's own model by what they are; a GlimpseError says what is missing."""


@dataclass(frozen=True, kw_only=True)
class HeatMapKind(Record):
    """A kind of heat map.

    Attributes:
        name: as in ``heat.maps``. meaning: one line for people.
        open: from an `Opening` to what makes maps; equal arguments and `Asked` give equal maps, whatever else is asked.
        settings: the kind's own parameters, given in ``heat.settings.<name>``.
        encodes: whether the maps depend on the encoder. backbones: the kinds of encoders that offer it, () for all.
        reads_images: whether ``open``'s result gets the image.
        locate: finds the maps' files of a kind that reads them from ``heat.folder``; None for any other.
        files: finds those of a model that the kind opens below ``heat.folder``. Their digests are part of the key; None for
            a kind without a model of its own. libraries: distributions that such a kind computes with.
        trained_on: data sets on whose masks the model was trained, for people: results there are not zero-shot; "" for none.
        map_bytes: about how many a map takes.
        cost: what it takes, one phrase for people.
    """

    meaning: str
    open: Callable[[Opening], Maker]
    settings: type[Params] = Params
    encodes: bool = True
    backbones: tuple[str, ...] = ()
    reads_images: bool = True
    locate: Locate | None = None
    files: Files | None = None
    libraries: tuple[str, ...] = ()
    trained_on: str = ""
    map_bytes: int = 4_800
    cost: str = "not stated"

    def offered_by(self, backbone: str) -> bool:
        """Whether the maps can be had with an encoder of kind ``backbone``."""
        return not self.backbones or backbone in self.backbones


HEAT_MAPS: Registry[HeatMapKind] = Registry("kind of heat map", "heat_maps")


def checked(name: str, values: Mapping[str, Any]) -> Params:
    """The settings of kind ``name`` as its own type.

    Raises:
        ParameterError: what was expected and what came.
    """
    from pydantic import ValidationError

    kind = HEAT_MAPS[name].settings
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {fault['input']!r}" for fault in error.errors()
        )
        raise ParameterError(
            f"heat.settings.{name}: {faults}; it knows {', '.join(kind.model_fields) or 'none'}"
        ) from None
