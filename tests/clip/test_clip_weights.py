"""Loading CLIP weights: every form gives the same model, every mismatch is an error that says it, nothing runs code."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import socket
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.clip.config import backbone_named, encoder_identity, standard_name
from stages.clip.weights import load_clip
from stages.visual.encoder import MaskedClip
from store.errors import ParameterError, WeightsError

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return open_clip.CLIP(**CONFIG).half().float().eval()


@pytest.fixture
def state(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def config_file(folder: Path, **changes: Any) -> str:
    path = folder / "tiny.json"
    path.write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    return str(path)


def assert_same(loaded: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    got = loaded.state_dict()
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name].float(), rtol=0, atol=0)


def save_half_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file({name: value.half() for name, value in state.items()}, folder / "w.safetensors")
    return folder / "w.safetensors"


def save_plain(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "w.pt")
    return folder / "w.pt"


def save_wrapped(state: dict[str, Tensor], folder: Path) -> Path:
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, folder / "w.bin")
    return folder / "w.bin"


@pytest.mark.parametrize("save", [save_half_safetensors, save_plain, save_wrapped])
def test_every_form_gives_the_same_model(
    save: Callable[[dict[str, Tensor], Path], Path], state: dict[str, Tensor], tmp_path: Path
) -> None:
    loaded, tokenizer = load_clip(config_file(tmp_path), save(state, tmp_path))
    assert_same(loaded, state)
    assert not loaded.training
    assert tokenizer(["a dog"]).shape == (1, 12)
    visual: Any = loaded.visual
    assert visual.image_mean == open_clip.OPENAI_DATASET_MEAN
    clip = MaskedClip(loaded, tokenizer)
    assert clip.text_features(["a dog"]).shape == (1, 16)
    assert clip.truncated(["dog " * 10, "dog " * 11]).tolist() == [False, True]


def test_config_with_preprocessing(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 2]}}))
    loaded, _ = load_clip(str(path), save_plain(state, tmp_path), precision="bf16")
    visual: Any = loaded.visual
    assert (visual.image_mean, visual.image_std) == ((0.1, 0.2, 0.3), (1, 1, 2))
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}


# TorchScript archives.


def save_archive(model: Any, path: Path, scalars: bool = True) -> Path:
    """An archive with the same pickle that OpenAI's have: half weights, the three scalars, a causal mask."""
    copy = open_clip.CLIP(**CONFIG).eval()
    copy.load_state_dict(model.state_dict())
    copy = copy.half()
    if scalars:
        for name, value in (("input_resolution", 16), ("context_length", 12), ("vocab_size", 49408)):
            vars(copy).pop(name, None)
            copy.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated and warns about shapes
        pixels, ids = torch.zeros(1, 3, 16, 16).half(), torch.zeros(1, 12, dtype=torch.long)
        torch.jit.trace(copy, (pixels, ids), check_trace=False).save(str(path))
    return path


def test_archive(model: Any, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_archive(model, tmp_path / "w.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    loaded, _ = load_clip(config_file(tmp_path), path)
    assert_same(loaded, state)


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("__main__", "X")]
)
def test_archive_that_names_a_function_is_refused(module: str, name: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(X" + bytes([len(str(ran)), 0, 0, 0])
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/constants.pkl", b"")
        archive.writestr("w/data.pkl", code + str(ran).encode() + b"tR.")
    with pytest.raises(WeightsError, match=rf"refused the name {module}\.{name}"):
        load_clip(config_file(tmp_path), tmp_path / "w.pt")
    assert not ran.exists()


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt: cannot be read as tensors"):
        load_clip(config_file(tmp_path), tmp_path / "w.pt")


def test_damaged_files(model: Any, state: dict[str, Tensor], tmp_path: Path) -> None:
    whole = {
        "a.safetensors": save_half_safetensors(state, tmp_path).read_bytes(),
        "b.pt": save_plain(state, tmp_path).read_bytes(),
        "c.pt": save_archive(model, tmp_path / "archive.pt").read_bytes(),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w/constants.pkl", b"")
        archive.writestr("w/data.pkl", pickle.dumps([1, 2]))
    cases = {"d.pt": b"", "e.safetensors": b"", "f.pt": b"not weights" * 50, "g.pt": buffer.getvalue()}
    for name, data in whole.items():
        cases[name] = data[: len(data) // 2]
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=name):
            load_clip(config_file(tmp_path), tmp_path / name)
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(WeightsError, match=f"{name}: expected a weights file, found none"):
            load_clip(config_file(tmp_path), tmp_path / name)


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"a": 1}, torch.zeros(2)])
def test_file_without_a_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="expected a state_dict"):
        load_clip(config_file(tmp_path), tmp_path / "w.pt")


def test_mismatches_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    del state["visual.proj"]
    state["visual.extra"] = torch.zeros(1)
    state["ln_final.weight"] = torch.zeros(7)
    with pytest.raises(WeightsError) as error:
        load_clip(config_file(tmp_path), save_plain(state, tmp_path))
    for said in (
        "w.pt",
        "1 missing: visual.proj;",
        "1 unexpected: visual.extra;",
        "1 other shapes: ln_final.weight (7,) instead of (16,);",
    ):
        assert said in str(error.value)


def test_quick_gelu_mismatch_is_an_error(model: Any, state: dict[str, Tensor], tmp_path: Path) -> None:
    plain = config_file(tmp_path, quick_gelu=False)
    with pytest.raises(
        WeightsError, match=r"with QuickGELU.*it holds context_length, input_resolution, vocab_size, as"
    ):
        load_clip(plain, save_archive(model, tmp_path / "w.pt"))
    named = save_plain(state, tmp_path).rename(tmp_path / "vit_openai.pt")
    with pytest.raises(WeightsError, match=r"with QuickGELU.*its name holds open_clip's tag openai"):
        load_clip(plain, named)
    with pytest.raises(WeightsError, match="-quickgelu"):
        load_clip("ViT-B-32", named)
    loaded, _ = load_clip(plain, save_archive(model, tmp_path / "w.pt", scalars=False))
    assert_same(loaded, state)


QUICK = (True, "QuickGELU", "GELU")
PLAIN = (False, "GELU", "QuickGELU")


@pytest.mark.parametrize(
    ("name", "said", "tag"),
    [
        ("ViT-B-32-OpenAI", QUICK, "openai"),
        ("tiny-metaclip_400m", QUICK, "metaclip_400m"),
        ("rn-quickgelu-yfcc15m-455df137", QUICK, "yfcc15m"),
        ("vit_dfn2b", QUICK, "dfn2b"),
        ("vit_dfn2b-s39b", PLAIN, "dfn2b_s39b"),  # a longer tag than dfn2b, which says the opposite
        ("CLIP-ViT-B-32-laion2B-s34B-b79K", PLAIN, "laion2b_s34b_b79k"),
        ("DataComp.XL-datacomp_xl_s13b_b90k", PLAIN, "datacomp_xl_s13b_b90k"),
    ],
)
def test_a_published_tag_in_the_name_says_the_activation(
    name: str, said: tuple[bool, str, str], tag: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    quick_gelu, trained, other = said
    weights = save_plain(state, tmp_path).rename(tmp_path / f"{name}.pt")
    loaded, _ = load_clip(config_file(tmp_path, quick_gelu=quick_gelu), weights)
    assert_same(loaded, state)
    with pytest.raises(WeightsError) as error:
        load_clip(config_file(tmp_path, quick_gelu=not quick_gelu), weights)
    for part in (
        f"{name}.pt: expected a model with {trained}, which",
        f"open_clip's tag {tag})",
        f"tiny.json' has {other};",
        f"set quick_gelu to {str(quick_gelu).lower()} in",
        "rename it",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name", ["mine", "refshapes_clip", "laion400m_e32", "tiny-v1", "meta", "webli-laion5b", "open_ai"]
)
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_other_names_say_nothing_about_the_activation(
    name: str, quick_gelu: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Also a tag of models that cannot be loaded here, and one that stands for either activation."""
    weights = save_plain(state, tmp_path).rename(tmp_path / f"{name}.pt")
    loaded, _ = load_clip(config_file(tmp_path, quick_gelu=quick_gelu), weights)
    assert_same(loaded, state)


@pytest.mark.parametrize(
    ("architecture", "name", "fits"),
    [
        ("ViT-B-32", "vit_b_32-quickgelu-laion400m_e32-46683a32", False),
        ("ViT-B-32-quickgelu", "vit_b_32-quickgelu-laion400m_e32-46683a32", True),
        ("ViT-B-16", "vit_b_16-laion400m_e32-55e67d44", True),
        ("models/ViT-B-32-quickgelu.json", "laion400m_e32", True),
        ("models/ViT-B-32-quickgelu.json", "datacomp_xl_s13b_b90k", False),
        ("models/RN50-quickgelu.json", "rn50-cc12m", True),
        ("RN50", "rn50-cc12m", False),
    ],
)
def test_the_architecture_decides_where_a_tag_stands_for_both(
    architecture: str,
    name: str,
    fits: bool,
    state: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(config: dict[str, Any], model: str) -> None:
        raise InterruptedError("building it, so the activation was accepted")

    monkeypatch.setattr("stages.clip.weights._build", build)
    weights = save_plain(state, tmp_path).rename(tmp_path / f"{name}.pt")
    model = str(Path(__file__).parents[2] / architecture) if architecture.endswith(".json") else architecture
    with pytest.raises(
        InterruptedError if fits else WeightsError, match="activation" if fits else "expected a model with"
    ):
        load_clip(model, weights)


def test_models_that_cannot_be_built(state: dict[str, Tensor], tmp_path: Path) -> None:
    weights = save_plain(state, tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    vision, text = CONFIG["vision_cfg"], CONFIG["text_cfg"]
    for name, message in (("none", "cannot read it"), ("broken", "cannot read it"), ("list", "expected an open_clip")):
        with pytest.raises(WeightsError, match=rf"{name}\.json: .*{message}"):
            load_clip(str(tmp_path / f"{name}.json"), weights)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"vision_cfg": {**vision, "depth": 3}}, "depth"),
        ({"vision_cfg": 3}, "expected an open_clip model config"),
        ({"depth": 3}, "depth"),
        ({"text_cfg": {**text, "vocab_size": 100}}, "vocab_size of at least 49408"),
    ]
    for change, message in changes:
        with pytest.raises(WeightsError, match=message):
            load_clip(config_file(tmp_path, **change), weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-32-quickgel", "did you mean 'ViT-B-32-quickgelu'"),
        ("hf-hub:timm/ViT-B-16-SigLIP", "expected the path of a .json"),
        ("nllb-clip-base-siglip", "hf_model_name"),
        ("xlm-roberta-base-ViT-B-32", "hf_model_name"),
        ("coca_ViT-B-32", "multimodal_cfg"),
    ],
)
def test_architectures_that_would_download_or_are_no_clip(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(ParameterError, match=message):
        load_clip(name, tmp_path / "w.pt")


def test_score_rule_of() -> None:
    rules = {
        name: backbone_named(name).score_rule for name in ("ViT-B-32-quickgelu", "RN50-quickgelu", "RN50x4", "ViT-L-14")
    }
    assert list(rules.values()) == ["cosine", "unnormalised", "unnormalised", "cosine"]


@pytest.mark.parametrize(
    ("model", "standard"),
    [
        ("ViT-B-32-quickgelu", "ViT-B/32"),
        ("ViT-B-16", "ViT-B/16"),
        ("ViT-L-14-336-quickgelu", "ViT-L/14@336"),
        ("ViT-H-14", "ViT-H/14"),
        ("RN50-quickgelu", "RN50"),
        ("RN101", "RN101"),
        ("RN50x4", "RN50x4"),
        ("RN50x64", "RN50x64"),
    ],
)
def test_the_standard_name_is_read_off_the_sizes(model: str, standard: str, tmp_path: Path) -> None:
    """Not off a file's name: a ViT-B/16 in a file called ViT-B-32.json is none the less ViT-B/16."""
    config = open_clip.get_model_config(model)
    assert config is not None
    assert standard_name(config) == standard
    file = tmp_path / "ViT-B-32.json"
    file.write_text(json.dumps({"model_cfg": config}))
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    identity = encoder_identity(str(file), weights, "float32")
    assert (identity["standard"], identity["architecture"]) == (standard, "ViT-B-32")
    assert identity["weights"] == hashlib.sha256(b"weights").hexdigest()


def test_a_toy_has_no_standard_name() -> None:
    assert standard_name({"embed_dim": 256, "vision_cfg": {"layers": 6, "width": 192, "patch_size": 16}}) == ""
    assert standard_name({"backbone": "toy"}) == ""
