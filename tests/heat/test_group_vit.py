"""Kind group_vit against transformers' own processor and ``segmentation_logits``, one image and one phrase at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GroupViTModel

from stages.heat_maps.group_vit import Settings, files, groups_of, opened
from stages.heat_maps.registry import Asked, Heat, Opening
from stages.heat_maps.transformers_model import Model
from tests.helpers.transformers_files import as_of_openai, group_vit, quiet

TEXTS = ("the red dog", "a cat, left of the blue ball!", "red", "x" * 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    group_vit(folder / "tiny")
    return folder


def picture(seed: int = 0, width: int = 60, height: int = 60) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((width, height))


def asked(*texts: str) -> list[Asked]:
    return [Asked(0, f"the sentence of {text}", text) for text in texts]


def maker(folder: Path, **settings: Any) -> Any:
    return opened(Opening(Settings(**{"model": "tiny", "template": "{}"} | settings), folder, {}))


def maps(folder: Path, image: Image.Image, texts: Sequence[str], **settings: Any) -> list[Heat]:
    found = maker(folder, **settings)(image, asked(*texts))
    assert all(isinstance(heat, np.ndarray) and heat.dtype == np.float32 and heat.shape == (4, 4) for heat in found)
    return list(found)


def released(model: Path) -> Any:
    with quiet():
        return GroupViTModel.from_pretrained(model, local_files_only=True).eval()


def upsampled(heat: Heat) -> np.ndarray:
    whole = torch.nn.functional.interpolate(torch.from_numpy(heat)[None, None], (32, 32), mode="bilinear")
    return whole[0, 0].numpy()


def expected_maps(model: Path, image: Image.Image, texts: Sequence[str], processor: Any) -> list[np.ndarray]:
    """transformers' logits of a pixel, which have the logits' scale twice: without it."""
    net, found = released(model), []
    for text in texts:
        given = processor(text=[text], images=[image], truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            logits = net(**given, output_segmentation=True).segmentation_logits
        found.append((logits[0, 0] / net.logit_scale.exp() ** 2).detach().numpy())
    return found


def test_maps_are_the_segmentation_logits_of_transformers(folder: Path, tmp_path: Path) -> None:
    """Of a square picture, of which transformers' processor cuts nothing off."""
    processor, image = group_vit(tmp_path / "tiny"), picture()
    expected = expected_maps(tmp_path / "tiny", image, TEXTS, processor)
    for heat, logits in zip(maps(folder, image, TEXTS), expected, strict=True):
        np.testing.assert_allclose(upsampled(heat), logits, rtol=1e-4, atol=1e-6)
        assert heat.std() > 1e-3
    assert min(abs(expected[0] - other).max() for other in expected[1:]) > 1e-3, "the text decides"


def test_an_oblong_picture_is_squashed_whole(folder: Path, tmp_path: Path) -> None:
    """What transformers makes of the picture that Pillow has squashed; its own processor would cut off the ends."""
    processor, image = group_vit(tmp_path / "tiny"), picture(width=96, height=48)
    (heat,) = maps(folder, image, TEXTS[:1])
    squashed = image.resize((32, 32), Image.Resampling.BICUBIC)
    whole, cut = (expected_maps(tmp_path / "tiny", each, TEXTS[:1], processor)[0] for each in (squashed, image))
    np.testing.assert_allclose(upsampled(heat), whole, rtol=1e-4, atol=1e-6)
    assert abs(whole - cut).max() > 1e-3


def test_a_map_depends_on_nothing_else_that_is_asked(folder: Path) -> None:
    make, image = maker(folder), picture()
    together = make(image, asked(*TEXTS))
    for row, text in enumerate(TEXTS):
        (alone,) = maker(folder)(image, asked(text))
        assert alone.tobytes() == together[row].tobytes()
    make(picture(1), asked(*TEXTS[::-1]))
    assert [heat.tobytes() for heat in make(image, asked(*TEXTS[::-1]))[::-1]] == [h.tobytes() for h in together]


def test_phrases_share_the_image_encoders_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.groupvit.modeling_groupvit import GroupViTVisionTransformer

    passes, forward = [], GroupViTVisionTransformer.forward

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        passes.append(1)
        return forward(self, *given, **named)

    make = maker(folder)
    monkeypatch.setattr(GroupViTVisionTransformer, "forward", counted)
    make(picture(), asked(*TEXTS))
    assert len(passes) == 1


def test_a_map_is_a_mean_of_cosines(folder: Path) -> None:
    """Shares of a patch sum to 1, groups are unit vectors: a map lies between the lowest and the highest cosine."""
    model = Model(files(folder, Settings(model="tiny")), "GroupViT", "GroupViTModel", "cpu")
    with torch.inference_mode():
        groups = groups_of(model, picture())
        text = model.vector(TEXTS[0])[0]
    assert groups.shares.shape == (16, 3)
    np.testing.assert_allclose(groups.shares.sum(1).numpy(), 1, rtol=1e-5)
    cosines = (groups.vectors @ (text / text.norm())).numpy()
    np.testing.assert_allclose(np.linalg.norm(groups.vectors.numpy(), axis=1), 1, rtol=1e-5)
    (heat,) = maps(folder, picture(), TEXTS[:1])
    assert cosines.min() - 1e-6 <= heat.min() < heat.max() <= cosines.max() + 1e-6
    plain = [[sum(groups.shares[4 * r + c, g] * cosines[g] for g in range(3)) for c in range(4)] for r in range(4)]
    np.testing.assert_allclose(heat, np.array(plain, np.float32), rtol=1e-5)


def test_texts_and_prompts(folder: Path) -> None:
    """By default the noun phrase in a prompt; several prompts by the mean of their unit vectors."""
    image, (one,) = picture(), asked(TEXTS[0])
    assert (Settings().text, Settings().template) == ("phrase", "a photo of a {}.")
    (sentence,) = maps(folder, image, [TEXTS[0]], text="sentence")
    np.testing.assert_array_equal(sentence, maps(folder, image, [one.sentence])[0])
    (several,) = maps(folder, image, [TEXTS[0]], template="a photo of {}|{}")
    apart = maps(folder, image, [f"a photo of {TEXTS[0]}", TEXTS[0]])
    model = Model(files(folder, Settings(model="tiny")), "GroupViT", "GroupViTModel", "cpu")
    with torch.inference_mode():
        vectors = [model.vector(text)[0] for text in (f"a photo of {TEXTS[0]}", TEXTS[0])]
    length = (sum(vector / vector.norm() for vector in vectors) / 2).norm().item()
    np.testing.assert_allclose(several, (apart[0] + apart[1]) / 2 / length, rtol=1e-4, atol=1e-7)


def test_the_tokenizer_may_stand_in_two_files(folder: Path, tmp_path: Path) -> None:
    group_vit(tmp_path / "tiny")
    as_of_openai(tmp_path / "tiny")
    expected, found = (maps(where, picture(), TEXTS) for where in (folder, tmp_path))
    assert [heat.tobytes() for heat in found] == [heat.tobytes() for heat in expected]
