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
from demo.captions import Phrase
from demo.clip_samples import (
    AROUND,
    BACKGROUND,
    PART,
    SCENE,
    SIDE,
    WHOLE,
    Caption,
    Sample,
    background,
    beyond,
    cut_out,
    normalised,
    part_of,
    roughened,
    samples,
    truths,
)
from demo.scenes import Scene, SceneObject, draw_scene, training_rng
from demo.train_clip import MODELS, NAME, Trainer, build_model, contrastive_loss, learning_rate, load_model, save_model
from stages.visual.encoder import MaskedClip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The demo's model config, much smaller."""
    values = json.loads((MODELS / f"{NAME}.json").read_text())
    values["embed_dim"] = 32
    values["vision_cfg"] |= {"layers": 3, "width": 64}
    values["text_cfg"] |= {"layers": 2, "width": 32}
    path = tmp_path / "small.json"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def small(config: Path) -> CLIP:
    torch.manual_seed(0)
    return build_model(config)


def batch_of(scenes: int, crops: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [sample for i in range(scenes) for sample in samples(rng, draw_scene(training_rng(i)), crops)]


# --- samples


def plainly_true(caption: Caption, image: Sample) -> bool:
    if caption.kind in (PART, AROUND, BACKGROUND) or image.caption.kind in (PART, AROUND, BACKGROUND):
        fitting = caption.kind == image.caption.kind
    else:
        fitting = image.caption.kind == SCENE or len(caption.phrases) == len(image.objects)
    return fitting and all(any(phrase.fits(item) for item in image.objects) for phrase in caption.phrases)


def test_truths_equal_a_plain_loop() -> None:
    batch = batch_of(12, 6)
    assert {sample.caption.kind for sample in batch} == {WHOLE, SCENE, PART, AROUND, BACKGROUND}
    captions = [sample.caption for sample in batch] + [sample.foil for sample in batch]
    found = truths(captions, batch)
    assert found.tolist() == [[plainly_true(caption, image) for image in batch] for caption in captions]
    assert found[: len(batch)].diagonal().all()
    assert found[len(batch) :].diagonal().mean() < 0.1
    assert found.mean() < 0.3


def test_a_foil_differs_in_one_word_of_meaning() -> None:
    for sample in batch_of(12, 6):
        if sample.caption.kind == BACKGROUND:
            assert sample.foil.kind == WHOLE
            continue
        assert sample.foil.kind == sample.caption.kind
        pairs = zip(sample.caption.phrases, sample.foil.phrases, strict=True)
        changes = [(a, b) for old, new in pairs for a, b in zip(astuple(old), astuple(new)) if a != b]
        assert len(changes) == 1
        assert None not in changes[0]


def test_a_phrase_that_says_nothing_fits_all() -> None:
    scene = draw_scene(training_rng(0))
    assert all(Phrase().fits(item) for item in scene.objects)


def test_crops_are_those_of_the_pipeline() -> None:
    """With the short side left alone, `cut_out` gives what MaskedClip feeds its encoder, and so the same feature."""
    torch.manual_seed(0)
    scene = draw_scene(training_rng(1), size=(256, 256))
    model = build_model().eval()
    clip = MaskedClip(model, lambda strings: None, short_side=256)
    masks = np.stack([item.mask for item in scene.objects])
    boxes = np.array([item.box for item in scene.objects], dtype=float)
    with torch.inference_mode():
        own = model.encode_image(torch.stack([cut_out(normalised(scene.image), mask) for mask in masks])).numpy()
    np.testing.assert_allclose(clip.local_features(scene.image, masks, boxes), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_imperfect_masks_are_as_bad_as_they_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = draw_scene(training_rng(seed))
    for item in scene.objects:
        area = item.mask.sum()
        part, wide, rough = part_of(rng, item.mask), beyond(rng, item.mask), roughened(rng, item.mask)
        assert not (part & ~item.mask).any()
        assert 0.2 * area < part.sum() < 0.65 * area
        assert not (item.mask & ~wide).any()
        assert wide.sum() > 1.3 * area
        assert (rough & item.mask).sum() / (rough | item.mask).sum() > 0.5
    free = background(rng, scene)
    assert free.any()
    assert not any((free & item.mask).any() for item in scene.objects)


# --- training


def test_the_loss_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    images, texts = torch.from_numpy(rng.normal(size=(4, 8))), torch.from_numpy(rng.normal(size=(7, 8)))
    true = np.zeros((7, 4), dtype=bool)
    true[range(4), range(4)] = True
    true[1, 3] = true[2, 0] = true[5, 1] = True  # captions 1 and 2 and foil 5 are true of other images, too

    def logit(image: int, text: int) -> float:
        return 10 * float(images[image] @ texts[text] / images[image].norm() / texts[text].norm())

    losses = []
    for i in range(4):
        choices = [logit(i, text) for text in range(7) if text == i or not true[text, i]]
        losses.append(math.log(sum(map(math.exp, choices))) - logit(i, i))
        choices = [logit(image, i) for image in range(4) if image == i or not true[i, image]]
        losses.append(math.log(sum(map(math.exp, choices))) - logit(i, i))
    found = contrastive_loss(images, texts, torch.tensor(10.0), torch.from_numpy(true))
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_loss_falls_on_a_fixed_batch(small: CLIP) -> None:
    trainer, batch = Trainer(small), batch_of(4, 3)
    losses = [trainer.step(batch, 2e-3) for _ in range(25)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_writes_weights_and_log(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_clip, "SCENES", 3)
    monkeypatch.setattr(train_clip, "FRESH", 2)
    monkeypatch.setattr(train_clip, "HELD_OUT_SCENES", 3)
    logs = [train_clip.train(None, 3, 0, tmp_path / name, config) for name in ("a", "b")]
    assert logs[0]["steps"] == 3
    assert logs[0] == json.loads((tmp_path / "a" / f"{NAME}.log.json").read_text())
    first, second = (load_file(tmp_path / name / f"{NAME}.safetensors") for name in ("a", "b"))
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


def test_the_committed_model_knows_its_shapes() -> None:
    """The committed weights fit the committed config, stay small, and tell the looks of single objects."""
    weights = MODELS / f"{NAME}.safetensors"
    assert weights.stat().st_size < 18e6
    found = train_clip.held_out_accuracy(load_model(), 40)
    assert found["random"] < 0.25
    assert found["local"] > 0.9
    assert found["fused_50"] > 0.85
    assert found["global"] > 1.5 * found["random"]


def test_held_out_accuracy_is_chance_for_an_untrained_model(small: CLIP) -> None:
    found = train_clip.held_out_accuracy(small, 8)
    assert found.keys() == {"local", "fused_50", "fused_85", "fused_95", "global", "random"}
    assert all(0 <= value < 0.6 for value in found.values())


def test_every_sample_has_the_input_size() -> None:
    scene: Scene = draw_scene(training_rng(2))
    for sample in samples(np.random.default_rng(0), scene, 20):
        assert sample.pixels.shape == (3, SIDE, SIDE)
        assert sample.pixels.dtype == torch.float32
        assert all(isinstance(item, SceneObject) for item in sample.objects)
        assert sample.caption.text == sample.caption.text.lower() != sample.foil.text
