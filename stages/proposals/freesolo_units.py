"""Units of images through FreeSOLO's network: what source freesolo keeps as parts, keyed by this module's code digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.device.prefetch import ahead
from stages.proposals.items import KIND, item_of, no_proposals
from store.errors import DataError, PassingError
from store.images import read_image
from store.segmentation import encode
from store.units import Compute, Result

_MAX_ASPECT = 20
"""The short side is resized to a fixed length without a cap on the long one: a thinner image would fill the memory."""


def proposer(weights: Path, images: Path, settings: Mapping[str, Any], device: str) -> Compute:
    """What computes units of (image name, image digest) with FreeSOLO's ``settings`` (see ``FreeSolo.from_state_dict``).

    An image that cannot be read has no proposals and a status that says why. Images are read while others are computed.
    """
    from stages.proposals.freesolo import FreeSolo

    net = FreeSolo.from_file(weights, **settings, device=device)

    def read(source: tuple[str, str]) -> tuple[NDArray[np.uint8], tuple[int, int]] | DataError:
        name, digest = source
        try:
            image = read_image(images, name, digest)
        except DataError as error:
            return error
        if max(image.size) > _MAX_ASPECT * min(image.size):
            size = f"{image.width} x {image.height}"
            return DataError(f"{name}: {size} is longer than {_MAX_ASPECT} times its short side; cut it")
        return net.shrink(image), (image.height, image.width)

    def propose(found: tuple[NDArray[np.uint8], tuple[int, int]] | DataError) -> Result:
        if isinstance(found, DataError):
            return Result({KIND: no_proposals(str(found))}, passing=isinstance(found, PassingError))
        made, (height, width) = net.propose_shrunk(*found), found[1]
        status = "" if len(made.masks) else "no proposal above the thresholds"
        return Result({KIND: item_of(encode(made.masks), made.scores, height, width, status)})

    return lambda inputs, kinds: [propose(found) for found in ahead(read, inputs)]
