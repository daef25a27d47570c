"""Folders of models of transformers: what is wrong with one is said in one line of ours, by the stage and before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stages.heat_maps import clip_seg, group_vit, model_folder
from stages.heat_maps.registry import Asked, Opening
from stages.heat_maps.transformers_model import Pixels
from store.errors import GlimpseError, ParameterError, WeightsError
from tests.helpers import transformers_files

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 603000000\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    transformers_files.clip_seg(tmp_path / "tiny")
    return tmp_path / "tiny"


def opened(folder: Path, model: str = "tiny") -> object:
    return clip_seg.opened(Opening(clip_seg.Settings(model=model), folder, {}))


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        document = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(document | values))

    return change


def section(name: str, **values: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        document = json.loads((model / "config.json").read_text())
        document[name] |= values
        (model / "config.json").write_text(json.dumps(document))

    return change


def written(name: str, content: str) -> Callable[[Path], None]:
    return lambda model: (model / name).write_text(content) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(model: Path) -> None:
        state = load_file(model / "model.safetensors")
        change(state)
        save_file(state, model / "model.safetensors")

    return rewrite


FOLDER_FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (without("config.json"), r"config\.json: expected a model's file, there is none; fetch the model's config\.json"),
    (without("preprocessor_config.json"), r"preprocessor_config\.json: expected a model's file, there is none"),
    (without("tokenizer.json"), r"tokenizer\.json: expected a model's file, there is none"),
    (without("model.safetensors"), r"expected a folder with one of .*model\.safetensors"),
    (written("model.safetensors", POINTER), r"a Git LFS pointer to a file of 603,000,000 bytes, .*git lfs pull"),
    (written("tokenizer.json", POINTER), r"tokenizer\.json: expected a model's file, got a Git LFS pointer"),
    (written("config.json", POINTER), r"config\.json: expected a model's file, got a Git LFS pointer"),
    (written("config.json", "[1]"), r"config\.json: expected a JSON object, got list"),
    (written("config.json", "{"), r"config\.json: expected a JSON object, cannot read it"),
    (changed("config.json", model_type="clip"), r"expected model_type 'clipseg', got 'clip'; give the folder of such"),
    (changed("config.json", model_type=None), r"expected model_type 'clipseg', got None"),
]
"""Found by what looks at the folder alone."""
LOADING_FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (written("tokenizer.json", "{}"), r"tokenizer\.json: expected a tokenizer of Hugging Face's form"),
    (changed("preprocessor_config.json", resample="soft"), r"preprocessor_config\.json: expected size, resample"),
    (changed("preprocessor_config.json", size={"longest_edge": 9}), r"expected size, .* got no 'height'"),
    (changed("preprocessor_config.json", size=None), r"expected size, resample"),
    (changed("preprocessor_config.json", image_std=[0, 1, 1]), r"expected size, .* deviation \(0\.0, 1\.0, 1\.0\)"),
    (changed("preprocessor_config.json", size=60), r"pictures of whole square patches, .* 60 x 60 pixels .* have 8"),
    (changed("config.json", projection_dim=[1]), r"config\.json: transformers cannot build this config"),
    (section("vision_config", num_attention_heads=5), r"config\.json: transformers cannot build this config"),
    (changed("config.json", extract_layers=[0, 1, 7]), r"config\.json: the model cannot be run"),
    (section("text_config", vocab_size=10), r"does not fit .*config\.json: 1 of another shape: .*token_embedding"),
    (
        tensors(lambda state: state.pop("decoder.film_add.bias")),
        r"does not fit .*: 1 missing: decoder\.film_add\.bias;",
    ),
    (tensors(lambda state: state.update(more=torch.ones(1))), r"does not fit .*: 1 unexpected: more; give the files"),
]


@pytest.mark.parametrize(("fault", "said"), FOLDER_FAULTS)
def test_a_folder_that_lacks_something(fault: Callable[[Path], None], said: str, model: Path) -> None:
    clip_seg.files(model.parent, clip_seg.Settings(model="tiny"))
    fault(model)
    with pytest.raises(WeightsError, match=said) as found:
        clip_seg.files(model.parent, clip_seg.Settings(model="tiny"))
    assert "\n" not in str(found.value)
    with pytest.raises(WeightsError, match=said):
        opened(model.parent)


@pytest.mark.parametrize(("fault", "said"), LOADING_FAULTS)
def test_files_that_make_no_model(fault: Callable[[Path], None], said: str, model: Path) -> None:
    opened(model.parent)
    fault(model)
    with pytest.raises(GlimpseError, match=said) as found:
        opened(model.parent)
    assert "\n" not in str(found.value)
    assert "pip install" not in str(found.value)


def test_tokens_beyond_the_vocabulary(model: Path) -> None:
    """A tokenizer of another model: torch would end with an index error, on a GPU with the process."""
    tokenizer = transformers_files.CLIPTokenizer(
        vocab={**transformers_files.vocabulary(), "z" * 9: 500}, merges=transformers_files.MERGES
    )
    tokenizer.add_tokens(["zz"])
    tokenizer.save_pretrained(model)
    make: Any = opened(model.parent)
    with pytest.raises(WeightsError, match=r"expected token ids below \d+, its vocab_size, got \d+ for 'a zz'"):
        make(Image.new("RGB", (9, 9)), [Asked(0, "a zz", "zz")])


def test_another_architectures_folder(tmp_path: Path) -> None:
    transformers_files.clip_seg(tmp_path / "seg")
    transformers_files.group_vit(tmp_path / "groups")
    with pytest.raises(WeightsError, match="expected model_type 'clipseg', got 'groupvit'"):
        opened(tmp_path, "groups")
    with pytest.raises(WeightsError, match="expected model_type 'groupvit', got 'clipseg'"):
        group_vit.opened(Opening(group_vit.Settings(model="seg"), tmp_path, {}))
    changed("preprocessor_config.json", crop_size={"height": 48, "width": 48})(tmp_path / "groups")
    with pytest.raises(WeightsError, match=r"expected pictures of 32 x 32 pixels, the model's image_size, got 48 x 48"):
        group_vit.opened(Opening(group_vit.Settings(model="groups"), tmp_path, {}))


def test_a_folder_elsewhere(model: Path, tmp_path: Path) -> None:
    """DVC would not see it change."""
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "link").symlink_to(model)
    for name in ("../tiny", str(model), "link"):
        with pytest.raises(ParameterError, match=r"clip_seg\.model: expected a folder below heat\.folder"):
            opened(folder, name)
    with pytest.raises(WeightsError, match=r"nothing: expected the folder of clip_seg's model .*, there is none"):
        opened(tmp_path, "nothing")
    with pytest.raises(ParameterError, match=r"clip_seg\.model: expected a folder's name"):
        opened(tmp_path, "a\0b")


def test_a_pickle_that_would_run_code_is_refused(model: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (model / "model.safetensors").unlink()
    torch.save({"clip.logit_scale": Evil()}, model / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: cannot be read as tensors: refused"):
        opened(model.parent)
    assert not (tmp_path / "ran").exists()


def test_without_the_extra(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "find_spec", lambda name: None)
    with pytest.raises(
        ParameterError,
        match=r"clip_seg needs the library transformers, .* run: pip install -c constraints.txt -e '\.\[transformers\]'",
    ):
        opened(model.parent)


def test_pixels_of_transformers_configs(tmp_path: Path) -> None:
    """Sizes in each form that transformers writes."""
    rest = {"resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    cases: list[tuple[dict[str, Any], tuple[int, int]]] = [
        ({"size": 32}, (32, 32)),
        ({"size": {"height": 20, "width": 30}}, (20, 30)),
        ({"size": {"shortest_edge": 40}}, (40, 40)),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 20, "width": 30}, "do_center_crop": True}, (20, 30)),
        ({"size": 40, "crop_size": 32, "do_center_crop": True}, (32, 32)),
        ({"size": 40, "crop_size": 32, "do_center_crop": False}, (40, 40)),
    ]
    image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    for given, size in cases:
        (tmp_path / "pixels.json").write_text(json.dumps(given | rest))
        pixels = Pixels.of(tmp_path / "pixels.json")
        assert pixels.size == size
        plain = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)) / 255
        expected = ((plain - rest["image_mean"]) / rest["image_std"]).transpose(2, 0, 1)[None]
        np.testing.assert_allclose(pixels.entered(image).numpy(), expected, rtol=1e-5, atol=1e-6)
    (tmp_path / "pixels.json").write_text(json.dumps({"size": 9, "do_rescale": False, "do_normalize": False, **rest}))
    same = Pixels.of(tmp_path / "pixels.json").entered(image.resize((9, 9))).numpy()
    np.testing.assert_array_equal(same[0].transpose(1, 2, 0), np.asarray(image.resize((9, 9)), np.float32))
