"""Units of images through FreeSOLO's network: what source freesolo keeps as parts, keyed by this module's code digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.device.threads import read_and_compute
from stages.proposals.items import KIND, item_of, no_proposals
from store.errors import DataError, TransientError
from store.images import read_image
from store.segmentation import encode
from store.states import State
from store.units import Compute, Result


def proposer(weights: Path, images: Path, settings: Mapping[str, Any], of: int, device: str) -> Compute:
    """What computes units of (image name, image digest) with FreeSOLO's ``settings`` (see ``FreeSolo.from_state_dict``).

    An image that cannot be read has no proposals, and a state and a status that say so.
    ``of``: the images of the whole run, see `read_and_compute`.
    """
    from stages.proposals.freesolo import FreeSolo

    net = FreeSolo.from_file(weights, **settings, device=device)

    def read(source: tuple[str, str]) -> tuple[NDArray[np.uint8], tuple[int, int]] | DataError:
        name, digest = source
        try:
            image = read_image(images, name, digest)
        except DataError as error:
            return error
        return net.shrink(image), (image.height, image.width)

    def propose(shrunk: tuple[NDArray[np.uint8], tuple[int, int]] | DataError) -> Result:
        if isinstance(shrunk, DataError):
            item = no_proposals(str(shrunk), State.UNREADABLE_IMAGE)
            return Result({KIND: item}, [str(shrunk)], isinstance(shrunk, TransientError))
        proposals, (height, width) = net.propose_shrunk(*shrunk), shrunk[1]
        status = "" if len(proposals.masks) else "no proposal above the thresholds"
        return Result({KIND: item_of(encode(proposals.masks), proposals.scores, height, width, status)})

    return lambda inputs, kinds: list(read_and_compute(read, propose, inputs, device, of))
