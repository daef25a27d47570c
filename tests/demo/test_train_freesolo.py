"""The recipe of the demo's proposal network, for a few steps of a smaller one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from demo import train_freesolo as recipe
from demo.scenes import draw_scene, training_rng
from stages.proposals.freesolo import FreeSolo
from stages.proposals.network import Architecture, RawOutput, Stage

TINY = Architecture(
    stem=8,
    stages=(Stage(1, 8, 16), Stage(1, 8, 24), Stage(1, 16, 32), Stage(1, 16, 32)),
    pyramid=32,
    tower_width=32,
    tower_depth=1,
    mask_width=32,
    kernel=32,
    classes=2,
)


@pytest.fixture(scope="module")
def samples():
    net = FreeSolo(recipe.new_network(TINY), short_side=96)
    return [recipe.make_sample(net, draw_scene(training_rng(index), (320, 240))) for index in range(2)]


def perfect_outputs(samples):
    """Raw outputs that say exactly what the samples hold: kernels pick one feature channel per object."""
    objects = max(len(sample.sizes) for sample in samples)
    features = torch.stack(
        [
            torch.cat([40 * s.masks.round() - 20, s.masks.new_zeros(objects, *s.masks.shape[1:])])[:objects]
            for s in samples
        ]
    )
    logits, kernels = [], []
    for grid, scale in zip((40, 36, 24, 16, 12), recipe.SCALES, strict=True):
        cells = torch.stack([recipe.assign_cells(sample, grid, scale) for sample in samples])
        logits.append(torch.stack([torch.where(cells >= 0, 20.0, -20.0), torch.full(cells.shape, -20.0)], dim=1))
        kernels.append(torch.nn.functional.one_hot(cells.clamp(min=0), objects).permute(0, 3, 1, 2).float())
    return RawOutput(logits, kernels, features)


def test_samples_cover_what_the_scene_shows(samples):
    scene = draw_scene(training_rng(0), (320, 240))
    sample = samples[0]
    assert sample.pixels.shape == (3, 96, 128)
    assert sample.masks.shape == (len(scene.objects), 24, 32)
    shares = [item.mask.mean() for item in scene.objects]
    np.testing.assert_allclose(sample.masks.mean((1, 2)), shares, atol=2e-3)
    for mask, box, item in zip(sample.masks, sample.boxes, scene.objects, strict=True):
        centroid = [
            (mask.sum(axis) * (4 * torch.arange(mask.shape[1 - axis]) + 2)).sum() / mask.sum() for axis in (0, 1)
        ]
        assert centroid == pytest.approx([0.4 * value for value in item.centre], abs=0.2)
        rows = np.nonzero(mask.numpy() > 0.5)[0]
        assert 4 * rows.min() >= box[1] - 4
        assert 4 * (rows.max() + 1) <= box[3] + 4


def test_every_object_has_a_cell_near_its_centre(samples):
    sample, found = samples[0], set()
    for grid, scale in zip((40, 36, 24, 16, 12), recipe.SCALES, strict=True):
        cells = recipe.assign_cells(sample, grid, scale)
        for row, column in torch.nonzero(cells >= 0).tolist():
            item = int(cells[row, column])
            found.add(item)
            assert scale[0] <= sample.sizes[item] <= scale[1]
            x, y = (column + 0.5) * 128 / grid, (row + 0.5) * 96 / grid
            assert abs(x - sample.centres[item][0]) < 1.5 * 128 / grid
            assert abs(y - sample.centres[item][1]) < 1.5 * 96 / grid
    assert found == set(range(len(sample.sizes)))


def test_the_losses_are_small_only_for_right_outputs(samples):
    right = perfect_outputs(samples)
    focal, dice = recipe.losses(right, samples)
    assert focal < 1e-6
    assert dice < 0.1
    wrong_focal, wrong_dice = recipe.losses(right, samples[::-1])
    assert wrong_focal > 1
    assert wrong_dice > 0.5


def test_focal_and_dice_on_numbers_worked_by_hand():
    logits, targets = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    expected = 0.25 * 0.25 * np.log(2) + 0.75 * 0.25 * np.log(2)
    assert recipe.focal_loss(logits, targets).item() == pytest.approx(expected, rel=1e-6)
    drawn, wanted = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert recipe.dice_loss(drawn, wanted).tolist() == pytest.approx([1 - 1 / 1.5, 0], abs=1e-3)


def test_the_loss_falls_on_a_fixed_batch(samples):
    network = recipe.new_network(TINY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    history = [recipe.train_step(network, samples, optimizer) for _ in range(25)]
    assert history[-1][0] < 0.6 * history[0][0]
    assert history[-1][1] < 0.8 * history[0][1]


def test_rounded_weights_load_as_the_same_architecture(samples):
    network = recipe.new_network(TINY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    recipe.train_step(network, samples, optimizer)
    weights = recipe.rounded_weights(network)
    assert all(value.dtype == torch.float16 for value in weights.values())
    net = FreeSolo.from_state_dict(weights)
    assert net.network.architecture == TINY
    exact, rounded = network.eval()(samples[0].pixels[None]), net.forward(samples[0].pixels[None])
    torch.testing.assert_close(rounded.mask_features, exact.mask_features, rtol=0, atol=0.02)


def test_the_schedule_warms_up_and_ends_at_zero():
    assert recipe.rate(0) == 0
    assert recipe.rate(recipe.WARM_UP) == pytest.approx(1)
    assert recipe.rate(1) == pytest.approx(0)
    falling = [recipe.rate(x) for x in np.linspace(recipe.WARM_UP, 1, 20)]
    assert falling == sorted(falling, reverse=True)


def test_the_held_out_seed_is_not_trained_on():
    assert recipe.HELD_OUT_SEED != recipe.SEED


def test_saving_writes_weights_and_log_whole(tmp_path):
    log = {"steps": 0, "minutes": 0.0, "losses": [], "held_out": []}
    figures = recipe.save(recipe.new_network(TINY), log, tmp_path, scenes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{recipe.NAME}.log.json", f"{recipe.NAME}.safetensors"]
    written = json.loads((tmp_path / f"{recipe.NAME}.log.json").read_text())
    assert written["held_out"][0]["best_iou"] == figures["best_iou"]
    net = FreeSolo.from_state_dict(load_file(tmp_path / f"{recipe.NAME}.safetensors"))
    assert net.network.architecture == TINY
