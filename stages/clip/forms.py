"""What a file that was given as weights is, told by its bytes: no torch, and nothing of it is run.

The one place that knows the forms of weights files, of CLIP and of proposal networks, and what is often found in their
stead: Git LFS pointers, pages of a web server, downloads that were cut off.
"""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Literal

from store.errors import WeightsError
from store.fingerprint import file_digest

Form = Literal["safetensors", "torchscript", "checkpoint", "pickle"]
"""safetensors; TorchScript archive (OpenAI's form); ``torch.save`` since 1.6 (a zip); pickle: older ``torch.save`` and
detectron2's ``.pkl``."""

WEIGHTS_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""How weights are called in a model's folder, in the order in which they are looked for."""
INDEX_NAMES = ("open_clip_model.safetensors.index.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")

_FETCH = "fetch the weights file again"
_FORMS = (
    ".safetensors, a PyTorch checkpoint (.pt, .pth, .bin), an archive as OpenAI published them, or detectron2's .pkl"
)
_HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header that its library reads at most."""
_HEAD = 4096
_SHOWN = 80

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip file; unpack it and give what is inside"),
    (b"\xfd7zXZ\x00", "an xz file; unpack it and give what is inside"),
    (b"BZh", "a bzip2 file; unpack it and give what is inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it and give what is inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file; unpack it and give what is inside"),
    (b"Rar!", "a RAR file; unpack it and give what is inside"),
    (b"\x89HDF", "an HDF5 file, as Keras and TensorFlow write them; give the PyTorch weights"),
    (b"\x93NUMPY", "a NumPy array (.npy); give the PyTorch weights"),
    (b"GGUF", "a GGUF file (llama.cpp); give the PyTorch weights"),
    (b"%PDF", f"a PDF; {_FETCH}"),
    (b"\x89PNG", f"a PNG image; {_FETCH}"),
    (b"\xff\xd8\xff", f"a JPEG image; {_FETCH}"),
)


def form_of(path: Path) -> Form:
    """The form of a weights file, from its bytes; its name does not count.

    Raises:
        WeightsError: no file, a folder, empty, cut off, or no weights: says what it is instead and what to do.
    """
    size, head, tail = _ends(path)
    if description := text_instead(head):
        raise _wrong(path, description)
    if head[:4] == b"PK\x03\x04":
        return _zip_form(path, size)
    if (header := int.from_bytes(head[:8], "little")) and head[8:9] == b"{":
        _check_safetensors(path, header, size)
        return "safetensors"
    for magic, description in _MAGIC:
        if head.startswith(magic):
            raise _wrong(path, description)
    if head[257:262] == b"ustar":
        raise _wrong(path, "a tar archive; unpack it and give the weights inside")
    if head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05":
        if tail[-1:] != b"." and not is_legacy(head):
            raise _wrong(path, f"a pickle that is cut off after {size:,} bytes (an incomplete download); {_FETCH}")
        return "pickle"
    raise _wrong(path, f"a file of an unknown form, which begins with {head[:8].hex(' ')}; give one of: {_FORMS}")


_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The beginning of ``torch.save`` before 1.6: a pickle with PyTorch's magic number. Raw numbers end it."""


def is_legacy(head: bytes) -> bool:
    """Whether a pickle begins as ``torch.save`` before 1.6 wrote it."""
    return head[2:14] == _LEGACY[2:]


def text_instead(head: bytes) -> str:
    """What a text is that was found where weights or a config were expected, and what to do; "" where it is no text."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        size = next((line.split()[-1].decode() for line in head.splitlines() if line.startswith(b"size ")), "")
        whole = f" to a file of {int(size):,} bytes" if size.isdecimal() and len(size) < 20 else ""
        return (
            f"a Git LFS pointer{whole}, not the file itself; run `git lfs pull` in its repository, or download the file"
        )
    if head.startswith((b"/annex/objects/", b"../.git/annex")):
        return "a git-annex pointer, not the file itself; run `git annex get` in its repository, or download the file"
    if b"\x00" in head:
        return ""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) < _HEAD or error.start < len(head) - 3:  # else the head ends inside a character
            return ""
        text = head[: error.start].decode("utf-8-sig")
    if not all(character.isprintable() or character in "\t\r\n\f" for character in text):
        return ""
    text = text.strip()
    shown = repr(" ".join(text.split())[:_SHOWN])
    if text[:200].lower().startswith(("<!doctype", "<html", "<head", "<body", "<script", "<?xml", "<error", "<!--")):
        kind = "an XML answer of a server" if text[:5].lower() in ("<?xml", "<erro") else "a web page"
        return (
            f"{kind} ({shown}), not the file behind it; {_FETCH} by its direct address (on Hugging Face: /resolve/, not "
            "/blob/; on GitHub: raw)"
        )
    if '"weight_map"' in text:
        return "the index of weights in several files (shards); save them as one .safetensors file and give that"
    if text.startswith(("{", "[")):
        return f"JSON text ({shown}), as a model config or a server's error message, no weights; {_FETCH}"
    return f"a text file ({shown}), perhaps a server's error message; {_FETCH}"


def weights_file(path: Path) -> Path:
    """The weights file that ``path`` names: itself, or in a model's folder the first of `WEIGHTS_NAMES`.

    Raises:
        WeightsError: a folder without such a file.
    """
    if not path.is_dir():
        return path
    for name in WEIGHTS_NAMES:
        if (path / name).exists():
            return path / name
    names = sorted(each.name for each in path.iterdir())
    if sharded := next((name for name in INDEX_NAMES if name in names), ""):
        raise WeightsError(
            f"{path / sharded}: expected weights in one file, got an index of several (shards); save them as one "
            ".safetensors file"
        )
    holds = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    raise WeightsError(
        f"{path}: expected a folder with one of {', '.join(WEIGHTS_NAMES)}, it holds {holds}; name the weights file itself"
    )


def weights_digest(path: Path) -> str:
    """sha256 of the weights file that ``path`` names (see `weights_file`).

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    file = weights_file(path)
    try:
        return file_digest(file)
    except (OSError, ValueError):
        _ends(file)  # says what is wrong with it
        raise


def _ends(path: Path) -> tuple[int, bytes, bytes]:
    """Size, first and last bytes of a file; what is no readable file with contents is refused."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _wrong(path, "a folder; name the file in it")
        if not stat.S_ISREG(status.st_mode):
            raise _wrong(path, "a pipe or device; name a plain file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(status.st_size - 64, 0))
            tail = file.read(64)
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "; it is a link to a file that is gone" if path.is_symlink() else ""
        raise WeightsError(
            f"{path}: expected a weights file, found none{hint}; fetch the weights or correct the path"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{path}: expected a weights file, cannot read it ({error.strerror}); check its rights and the disk"
        ) from error
    except ValueError as error:  # a zero byte in the path
        raise WeightsError(f"{path}: expected the path of a weights file; correct it") from error
    if not head:
        raise _wrong(path, f"an empty file (0 bytes); {_FETCH}")
    return status.st_size, head, tail


def _zip_form(path: Path, size: int) -> Form:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name).name for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise _wrong(
            path, f"an archive that is cut off after {size:,} bytes or damaged (an incomplete download?); {_FETCH}"
        ) from error
    except (OSError, ValueError, NotImplementedError, RuntimeError, MemoryError) as error:
        raise _wrong(path, f"a damaged archive; {_FETCH}") from error
    if "data.pkl" in names:
        return "torchscript" if "constants.pkl" in names else "checkpoint"
    holds = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if names and all(name.endswith(".npy") for name in names):
        raise _wrong(path, "a NumPy archive (.npz), as Google publishes SigLIP and ViT; give PyTorch weights of a CLIP")
    raise _wrong(
        path, f"a zip without PyTorch weights at its root, with {holds or 'nothing'}; unpack it, give a file in it"
    )


def _check_safetensors(path: Path, header: int, size: int) -> None:
    """Refuse a safetensors file whose size is not what its header says."""
    if header > min(size - 8, _HEADER_LIMIT):
        raise _wrong(
            path, f"a safetensors file that is cut off inside its header, after {size:,} bytes, or damaged; {_FETCH}"
        )
    try:
        with path.open("rb") as file:
            file.seek(8)
            table = json.loads(file.read(header))
        ends = [entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
        whole = 8 + header + max(ends, default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _wrong(path, f"a safetensors file whose header is damaged; {_FETCH}") from error
    if whole > size:
        raise _wrong(
            path, f"a safetensors file that is cut off: {size:,} of {whole:,} bytes (an incomplete download); {_FETCH}"
        )


def _wrong(path: Path, description: str) -> WeightsError:
    return WeightsError(f"{path}: expected a weights file, got {description}")
