"""Opening files that somebody else has put there: plain files only, of a bounded size, below the folder they belong to.

Opening a pipe waits for a writer, reading a device never ends, and a link may lead to a file that is none of the data.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path


class NotPlain(OSError):
    """What stands there is a pipe, a device or a socket; ``strerror`` says so."""


def open_regular(path: Path) -> io.BufferedReader:
    """``path`` opened for reading in bytes; links are followed.

    Raises:
        NotPlain: it is no plain file. OSError: it cannot be opened; a folder, too.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a pipe without a writer blocks
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise NotPlain(errno.EINVAL, "it is a pipe, a device or a socket, no plain file", str(path))
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a plain file, of at most ``most`` bytes.

    Raises:
        OSError: it cannot be read, is no plain file, or is larger (also one whose size the system does not say).
    """
    with open_regular(path) as file:
        if most is None:
            return file.read()
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data


def leaves(root: Path, path: Path) -> bool:
    """Whether ``path`` leads out of folder ``root`` by ``..`` or by links; ``root`` itself may be a link.

    Raises:
        OSError: links lead in a circle.
    """
    return not path.resolve(strict=False).is_relative_to(root.resolve())
