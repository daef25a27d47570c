"""Every form of a weights file is read as the same numbers; what is none is named; nothing runs, nothing explodes."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.clip.forms import form_of, weights_file
from stages.clip.layouts import looks_like
from stages.clip.state_dict import PREFIXES, WRAPPERS, read_state_dict
from stages.clip.weights import load_clip
from stages.proposals.freesolo import FreeSolo
from store.errors import WeightsError
from tests.helpers.clip_files import config_file
from tests.helpers.weights_files import STATE, arrays, assert_ours, save_pickle, save_torch


def training_checkpoint(state: Any) -> dict[str, Any]:
    """As open_clip's training writes them: numpy scalars in the optimiser's groups."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimiser.step()
    for group in optimiser.param_groups:
        group["lr"] = np.float64(1e-3) * np.cos(0.5)
    return {
        "epoch": np.int64(3),
        "name": "run",
        "state_dict": state,
        "optimizer": optimiser.state_dict(),
        "scaler": {"scale": np.float32(2), "growth": None},
        "milestones": Counter([1, 1]),
        "best": defaultdict(dict, {"loss": np.array([1.0, 2.0])}),
        "args": argparse.Namespace(lr=0.1),
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "seen": {"parameter": weight, "bool": np.bool_(True), "bytes": b"x"},
    }


FORMS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda p: save_torch(STATE, p),
    "old torch": lambda p: save_torch(STATE, p, old=True),
    "training": lambda p: save_torch(training_checkpoint(STATE), p),
    "training, old torch": lambda p: save_torch(training_checkpoint(OrderedDict(STATE)), p, old=True),
    "parameters": lambda p: save_torch({n: torch.nn.Parameter(v, requires_grad=False) for n, v in STATE.items()}, p),
    **{f"wrapped in {w}": lambda p, w=w: save_torch({"epoch": 1, w: STATE}, p) for w in WRAPPERS},  # type: ignore[misc]
    **{
        f"prefix {x}": lambda p, x=x: save_torch({x + n: v for n, v in STATE.items()}, p)  # type: ignore[misc]
        for x in PREFIXES
    },
    "prefixes": lambda p: save_torch({"state_dict": {f"module.clip_model.{n}": v for n, v in STATE.items()}}, p),
    **{
        f"arrays, protocol {n}": lambda p, n=n: save_pickle(  # type: ignore[misc]
            {"model": arrays(STATE), "__author__": "someone", "matching_heuristics": True}, p, n
        )
        for n in (2, 3, 4, 5)
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_every_form_gives_the_same_numbers(form: str, suffix: str, tmp_path: Path) -> None:
    read = read_state_dict(FORMS[form](tmp_path / f"w{suffix}"))
    assert read.keys() == STATE.keys()
    for name, value in STATE.items():
        assert read[name].dtype == value.dtype
        torch.testing.assert_close(read[name], value, rtol=0, atol=0)


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    save_file({f"module.{n}": v.contiguous() for n, v in STATE.items()}, tmp_path / "pytorch_model.bin")
    assert read_state_dict(tmp_path / "pytorch_model.bin").keys() == STATE.keys()


def test_arrays_of_python_2_and_of_another_byte_order(tmp_path: Path) -> None:
    """Strings of bytes; big-endian numbers."""
    array = np.arange(4, dtype=">f4")
    head = b"\x80\x02}U\x05modelq\x01}U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    state = b"(K\x01K\x04\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    raw = array.tobytes()
    (tmp_path / "w.pkl").write_bytes(head + state + b"U" + bytes([len(raw)]) + raw + b"tbss.")
    torch.testing.assert_close(read_state_dict(tmp_path / "w.pkl")["w"], torch.arange(4.0))


def test_tensors_that_share_numbers_and_only_what_is_wanted(tmp_path: Path) -> None:
    shared = torch.arange(8.0)
    save_torch(
        {"state_dict": {"a": shared, "b": shared[2:5], "c": shared[::3]}, "optimizer": torch.ones(1000)}, tmp_path / "w"
    )
    read = read_state_dict(tmp_path / "w")
    assert {name: value.tolist() for name, value in read.items()} == {"a": [*range(8)], "b": [2, 3, 4], "c": [0, 3, 6]}
    with zipfile.ZipFile(tmp_path / "w") as archive, zipfile.ZipFile(tmp_path / "x", "w") as copy:
        for info in archive.infolist():
            if not info.filename.endswith("data/1"):  # the optimiser's numbers
                copy.writestr(info, archive.read(info))
    assert read_state_dict(tmp_path / "x").keys() == {"a", "b", "c"}


# What is no weights file.

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 353976522\n" % (b"0" * 64)


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))
    return buffer.getvalue()


INSTEAD: dict[str, tuple[bytes, str]] = {
    "pointer": (LFS, r"a Git LFS pointer to a file of 353,976,522 bytes, not the file itself; run `git lfs pull`"),
    "annex": (b"/annex/objects/SHA256E-s3--0.pt\n", "a git-annex pointer"),
    "page": (b"\n<!DOCTYPE html>\n<html><title>Google Drive - Virus scan warning</title>", "a web page .*/resolve/"),
    "page with a mark": (b"\xef\xbb\xbf<html lang='en'>" + b" " * 9000, "a web page"),
    "page in German": (b"<html>" + "ü".encode() * 4000, "a web page"),
    "XML": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "an XML answer of a server .*AccessDenied",
    ),
    "JSON error": (b'{"error": "Invalid credentials"}', "JSON text .*Invalid credentials"),
    "index": (json.dumps({"metadata": {}, "weight_map": {"a": "b"}}).encode(), "the index of weights in several files"),
    "text": (b"Entry not found", "a text file .*Entry not found"),
    "empty": (b"", r"an empty file \(0 bytes\); fetch"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 50, "a gzip file; unpack it"),
    "tar": (tarred(), "a tar archive; unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "an HDF5 file"),
    "array": (b"\x93NUMPY\x01\0" + b"\0" * 50, "a NumPy array"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 50, "a GGUF file"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "a PNG image"),
    "npz": (zipped(a_dot_npy=b"", b_dot_npy=b""), "a NumPy archive"),
    "zip": (zipped(ViT__model_dot_pt=b"x"), r"a zip without PyTorch weights at its root, with model\.pt; unpack it"),
    "zip, cut off": (b"PK\x03\x04" + b"\0" * 500, "an archive that is cut off after 504 bytes"),
    "safetensors, cut off": (struct.pack("<Q", 999) + b'{"a":', "a safetensors file that is cut off inside its header"),
    "safetensors, damaged": (struct.pack("<Q", 5) + b'{"a":' + b"x" * 9, "a safetensors file whose header is damaged"),
    "pickle, cut off": (pickle.dumps(arrays(STATE))[:-9], "a pickle that is cut off"),
    "noise": (bytes(range(128, 256)) * 9, "an? (file|unknown).* of an unknown form, which begins with 80 81"),
}


@pytest.mark.parametrize("case", INSTEAD)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_weights_file_is_named(case: str, suffix: str, tmp_path: Path) -> None:
    data, said = INSTEAD[case]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    for load in (lambda: load_clip(config_file(tmp_path), path), lambda: FreeSolo.from_file(path)):
        with pytest.raises(WeightsError, match=said) as error:
            load()
        assert_ours(error.value, path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    said = {
        "none": "found none; fetch",
        "none/deeper": "found none; fetch",
        "link": "it is a link to a file that is gone",
        "pipe": "a pipe or device",
        "folder": "a folder; name the file in it",
    }
    for name, message in said.items():
        with pytest.raises(WeightsError, match=message):
            FreeSolo.from_file(tmp_path / name)
    with pytest.raises(WeightsError, match="it holds nothing; name the weights file"):
        weights_file(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="got an index of several"):
        load_clip(config_file(tmp_path), tmp_path / "folder")
    (tmp_path / "folder" / "pytorch_model.bin").write_bytes(LFS)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: .*Git LFS pointer"):
        load_clip(config_file(tmp_path), tmp_path / "folder")
    assert form_of(save_torch(STATE, tmp_path / "w")) == "checkpoint"


@pytest.mark.parametrize("form", ["plain", "old torch", "arrays, protocol 4", "safetensors"])
def test_a_file_cut_off_or_changed_anywhere_is_one_message(form: str, tmp_path: Path) -> None:
    path = tmp_path / "w"
    if form == "safetensors":
        save_file({n: v.contiguous() for n, v in STATE.items()}, path)
    else:
        FORMS[form](path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError) as error:
            read_state_dict(path)
        assert_ours(error.value, path)
    for place in random.integers(0, len(whole), 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << random.integers(8))]) + whole[place + 1 :])
        try:
            read_state_dict(path)
        except WeightsError as error:
            assert_ours(error, path)


# Whose weights they are.

LAYOUTS = {
    "a SigLIP of Hugging Face transformers": [
        "vision_model.head.probe",
        "vision_model.encoder.layers.0.mlp.fc1.weight",
    ],
    "an open_clip model with an image encoder of timm": ["visual.trunk.blocks.0.attn.qkv.weight", "logit_scale"],
    "a CoCa of open_clip": ["text_decoder.x", "visual.conv1.weight"],
    "an EVA-CLIP": ["visual.blocks.0.attn.q_proj.weight"],
    "a CLIP of Hugging Face transformers": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "a SOLOv2 or FreeSOLO network of detectron2": ["backbone.bottom_up.stem.conv1.weight", "ins_head.cate_pred.bias"],
    "a Mask R-CNN or Faster R-CNN of detectron2": ["backbone.bottom_up.stem.conv1.weight", "roi_heads.x"],
    "a SAM (Segment Anything)": ["image_encoder.pos_embed", "mask_decoder.x"],
    "a BERT": ["bert.embeddings.word_embeddings.weight"],
    "a vision transformer of timm, DINO or MAE": ["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"],
    "a CLIP of OpenAI or open_clip": ["visual.conv1.weight", "transformer.resblocks.0.ln_1.weight"],
    "a ResNet of torchvision": ["layer1.0.conv1.weight", "fc.weight"],
    "": ["alpha", "beta"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_models_weights_are_named(layout: str, tmp_path: Path) -> None:
    names = LAYOUTS[layout]
    assert looks_like(names) == layout
    path = save_torch({name: torch.zeros(3) for name in names}, tmp_path / "w.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if layout != "a SOLOv2 or FreeSOLO network of detectron2":
            with pytest.raises(WeightsError, match=r"w\.pt: missing key backbone\..* got keys like") as error:
                FreeSolo.from_file(path)
            assert layout in str(error.value)
            assert_ours(error.value, path)
        if not layout.startswith("a CLIP"):
            with pytest.raises(WeightsError, match=r"w\.pt: expected the weights of a CLIP .*missing: ") as error:
                load_clip(config_file(tmp_path), path)
            assert (layout or "a layout that is not known") in str(error.value)
            assert_ours(error.value, path)
