"""The recipe of RefShapes' CLIP: captions true of their images, a loss that falls, weights that come back."""

from __future__ import annotations

import json
import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import CLIP
from safetensors import safe_open
from safetensors.torch import load_file

from demo import train_clip
from demo.captions import PLACES, Phrase, loose_places
from demo.clip_samples import FEW, HINTED, Caption, Samples, View, region, samples, truths, window
from demo.scenes import draw_scene, training_rng
from demo.train_clip import (
    MODELS,
    NAME,
    Trainer,
    build_model,
    contrastive_loss,
    learning_rate,
    load_model,
    region_features,
    save_model,
)
from stages.visual.encoder import MaskedClip
from stages.visual.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

SIDE, GRID = 112, (8, 8)
RESNET = "refshapes_resnet"


def small_config(name: str, folder: Path, **vision: object) -> Path:
    """The demo's model config of this name, much smaller."""
    values = json.loads((MODELS / f"{name}.json").read_text())
    values["embed_dim"] = 32
    values["vision_cfg"] |= vision
    values["text_cfg"] |= {"layers": 1, "width": 32, "heads": 2}
    path = folder / "small.json"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return small_config(NAME, tmp_path, layers=4, width=64)


@pytest.fixture
def resnet_config(tmp_path: Path) -> Path:
    return small_config(RESNET, tmp_path, image_size=64, width=8)


@pytest.fixture
def small(config: Path) -> CLIP:
    torch.manual_seed(0)
    return build_model(config)


def batch_of(scenes: int, windows: int, regions: int, side: int = SIDE, grid: tuple[int, int] = GRID) -> Samples:
    drawn = [draw_scene(training_rng(i)) for i in range(scenes)]
    return samples(np.random.default_rng(0), drawn, windows, regions, side, grid)


# --- samples


def plainly_true(caption: Caption, view: View) -> bool:
    seen = (*view.objects, *view.hinted)
    allowed = [caption.place is None or here[PLACES.index(caption.place)] for here in view.places]
    named = [
        any(phrase.fits(item) and (place or i > 0) for item, place in zip(seen, allowed, strict=True))
        for i, phrase in enumerate(caption.phrases)
    ]
    return all(named) and (len(view.objects) > FEW or len(caption.phrases) >= len(view.objects))


def test_truths_equal_a_plain_loop() -> None:
    views = batch_of(10, 4, 4).views
    captions = [caption for view in views for caption in view.captions]
    foils = [foil for view in views for foil in view.foils]
    assert any(caption.place for caption in captions)
    found = truths(captions + foils, views)
    assert found.tolist() == [[plainly_true(caption, view) for view in views] for caption in captions + foils]
    owners = [i for i, view in enumerate(views) for _ in view.captions]
    assert found[range(len(owners)), owners].all()
    assert found[range(len(owners), 2 * len(owners)), owners].mean() < 0.2
    assert found.mean() < 0.3


def test_a_foil_differs_in_one_word_of_meaning_at_most() -> None:
    for view in batch_of(10, 4, 4).views:
        for caption, foil in zip(view.captions, view.foils, strict=True):
            pairs = zip(caption.phrases, foil.phrases, strict=True)
            changes = [(a, b) for old, new in pairs for a, b in zip(astuple(old), astuple(new)) if a != b]
            if not changes:
                assert caption.place is not None  # the place is what differs, unless by chance it is the same
                continue
            assert len(changes) == 1
            assert None not in changes[0]
            assert foil.place == caption.place


def test_captions_are_true_of_what_is_seen() -> None:
    for view in batch_of(10, 4, 4).views:
        for caption in view.captions:
            assert caption.text == caption.text.lower()
            assert all(any(phrase.fits(item) for item in view.objects) for phrase in caption.phrases)
            if len(view.objects) <= FEW:
                assert len(caption.phrases) == len(view.objects)


def test_a_phrase_that_says_nothing_fits_all() -> None:
    scene = draw_scene(training_rng(0))
    assert all(Phrase().fits(item) for item in scene.objects)


def test_an_object_lies_in_at_least_one_place() -> None:
    scene = draw_scene(training_rng(3))
    for index in range(len(scene.objects)):
        told = dict(zip(PLACES, loose_places(scene, index), strict=True))
        assert told["left"] or told["right"]
        assert not told["top left"] or (told["top"] and told["left"])


@pytest.mark.parametrize("seed", range(5))
def test_windows_and_regions_hold_their_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = draw_scene(training_rng(seed))
    for index, item in enumerate(scene.objects):
        left, top, right, bottom = window(rng, scene, index)
        assert 0 <= left <= item.box[0] < item.box[2] <= right <= scene.image.width
        assert 0 <= top <= item.box[1] < item.box[3] <= bottom <= scene.image.height
        inside = region(rng, scene, index)
        assert inside.shape == item.mask.shape
        assert np.count_nonzero(inside & item.mask) > HINTED * np.count_nonzero(item.mask)


def test_scenes_are_seen_as_the_pipeline_sees_them() -> None:
    """With the short side left alone, a scene is what MaskedClip feeds its encoder."""
    scene = draw_scene(training_rng(1), size=(256, 256))
    found = samples(np.random.default_rng(0), [scene], 1, 1, SIDE, GRID)
    preprocess = Preprocess(IMAGENET_MEAN, IMAGENET_STD, antialias=False, short_side=256, fill="reference")
    prepared = preprocess.prepare(scene.image, torch.device("cpu"))
    torch.testing.assert_close(found.scenes, preprocess.global_view(prepared, (SIDE, SIDE)))


def test_samples_have_the_sizes_they_say() -> None:
    batch = batch_of(3, 2, 4)
    assert batch.scenes.shape == (3, 3, SIDE, SIDE)
    assert batch.windows.shape == (6, 3, SIDE, SIDE)
    assert batch.regions.shape == (12, *GRID)
    assert batch.owners.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(batch.views) == 3 + 6 + 12
    assert {image.dtype for image in (batch.scenes, batch.windows, batch.regions)} == {torch.float32}
    assert 0 <= batch.regions.min() <= batch.regions.max() <= 1
    assert (batch.regions.flatten(1).amax(dim=1) > 0).all()


# --- training


def test_region_features_are_the_pipelines_global_features(small: CLIP, resnet_config: Path) -> None:
    for model in (small.eval(), build_model(resnet_config).eval()):
        tower = MaskedClip(model, lambda strings: None).tower
        batch = batch_of(3, 0, 4, tower.input_size[0], tower.grid)
        with torch.inference_mode():
            scenes, regions = region_features(model, batch.scenes, batch.regions, batch.owners)
            shared = tower.shared(batch.scenes, [3])[3]
            expected = tower.masked(shared, batch.owners.numpy(), batch.regions, 3, 64)
            torch.testing.assert_close(scenes, model.encode_image(batch.scenes), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(regions, expected, rtol=1e-4, atol=1e-5)


def test_a_window_with_all_its_patches_is_an_image(small: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = batch_of(2, 2, 0).windows
    with torch.inference_mode():
        whole = small.encode_image(windows)
        assert not torch.allclose(train_clip.window_features(small, windows), whole, atol=1e-3)
        monkeypatch.setattr(train_clip, "DROPPED", 0.0)
        torch.testing.assert_close(train_clip.window_features(small, windows), whole, rtol=1e-4, atol=1e-5)


def test_the_loss_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    images, texts = torch.from_numpy(rng.normal(size=(4, 8))), torch.from_numpy(rng.normal(size=(8, 8)))
    owners = [0, 1, 2, 3, 0]  # image 0 has two captions; texts 5, 6 and 7 are foils
    true = np.zeros((8, 4), dtype=bool)
    true[range(5), owners] = True
    true[1, 3] = true[2, 0] = true[6, 1] = True  # captions 1 and 2 and foil 6 are true of other images, too

    def chance(image: int, text: int) -> float:
        return math.exp(10 * float(images[image] @ texts[text] / images[image].norm() / texts[text].norm()))

    losses = []
    for text, image in enumerate(owners):
        among_texts = sum(chance(image, other) for other in range(8) if other == text or not true[other, image])
        among_images = sum(chance(other, text) for other in range(4) if other == image or not true[text, other])
        losses += [-math.log(chance(image, text) / total) for total in (among_texts, among_images)]
    found = contrastive_loss(images, texts, torch.tensor(owners), torch.tensor(10.0), torch.from_numpy(true))
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize("kind", ["config", "resnet_config"])
def test_the_loss_falls_on_a_fixed_batch(kind: str, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    model = build_model(request.getfixturevalue(kind))
    tower = MaskedClip(model, lambda strings: None).tower
    trainer, batch = Trainer(model), batch_of(4, 2, 2, tower.input_size[0], tower.grid)
    losses = [trainer.step(batch, 2e-3) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_run_writes_weights_and_log(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_clip, "SCENES", 3)
    monkeypatch.setattr(train_clip, "FRESH", 2)
    monkeypatch.setattr(train_clip, "HELD_OUT_SCENES", 3)
    logs = [train_clip.train(None, 3, 0, tmp_path / name, config) for name in ("a", "b")]
    assert logs[0]["steps"] == 3
    assert logs[0] == json.loads((tmp_path / "a" / "small.log.json").read_text())
    first, second = (load_file(tmp_path / name / "small.safetensors") for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, step / 1000) for step in range(1000)]
    top = int(np.argmax(rates))
    assert rates[0] < 0.1 * max(rates)
    assert 30 < top < 100
    assert all(np.diff(rates[:top]) > 0)
    assert all(np.diff(rates[top:]) < 0)
    assert rates[-1] < 0.03 * max(rates)


# --- weights


def test_text_features_are_those_of_open_clip(small: CLIP) -> None:
    trainer = Trainer(small)
    tokens = trainer.tokenizer(["circle", "the small striped red circle to the left of the large blue star"])
    with torch.inference_mode():
        torch.testing.assert_close(train_clip.text_features(small, tokens), small.encode_text(tokens))


def test_weights_come_back_in_half_precision(small: CLIP, config: Path, tmp_path: Path) -> None:
    seen = torch.zeros(49408, dtype=torch.bool)
    seen[[320, 736]] = True
    path = tmp_path / "small.safetensors"
    save_model(small, seen, path)
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    back = load_model(path, config)
    assert not back.training
    for (key, old), new in zip(small.named_parameters(), back.parameters(), strict=True):
        expected = old.half().float()
        if key == "token_embedding.weight":
            expected = torch.where(seen[:, None], expected, 0.0)
        assert torch.equal(new, expected), key


@pytest.mark.parametrize(("name", "megabytes"), [(NAME, 18), (RESNET, 12)])
def test_the_committed_models_know_their_shapes(name: str, megabytes: float) -> None:
    """The committed weights fit the committed config, stay small, and tell the looks of single objects."""
    weights = MODELS / f"{name}.safetensors"
    assert weights.stat().st_size < 1e6 * megabytes
    found = train_clip.held_out_accuracy(load_model(weights, MODELS / f"{name}.json"), 40)
    assert found["random"] < 0.25
    assert min(found["local"], found["global"]) > 1.5 * found["random"]
    assert found["fused_50"] > max(found["local"], found["global"])


def test_held_out_accuracy_is_chance_for_an_untrained_model(small: CLIP) -> None:
    found = train_clip.held_out_accuracy(small, 8)
    assert found.keys() == {"local", "fused_50", "fused_85", "fused_95", "global", "random"}
    assert all(0 <= value < 0.6 for value in found.values())
