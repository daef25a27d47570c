"""Train RefShapes' small CLIPs: `python -m demo.train_clip [--config FILE] [--minutes N] [--threads T] [--out FOLDER]`.

The architecture is open_clip's own, a vision transformer or a CLIP-ResNet, read from a file in open_clip's model-config
format. It learns as a CLIP does, from scenes of a few objects and captions that name some of them (`demo.clip_samples`);
it sees no masked crop. Scenes are drawn on the fly from the training namespace of seeds; the figures in the log come
from held-out scenes and from the weights as written, in float16.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import CLIP, SimpleTokenizer
from open_clip.modified_resnet import ModifiedResNet
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from demo.captions import appearance
from demo.clip_samples import Samples, samples, truths
from demo.scenes import Scene, draw_scene, training_rng
from stages.visual.encoder import MaskedClip
from stages.visual.masked_resnet import MaskedResNet

MODELS = Path(__file__).parent / "models"
NAME = "refshapes_clip"
CONFIG = MODELS / f"{NAME}.json"
HELD_OUT_SEED = 1_000_000  # of training_rng; the benchmark's scenes stay unseen until it runs
HELD_OUT_SCENES = 300
MASKED_BLOCKS = 3  # the last ones, which see a region's patches alone: the pipeline's k
DROPPED = 0.5  # share of a window's patches that a transformer does not see (Li et al., CVPR 2023)
MINUTES = 50.0
SCENES, WINDOWS, REGIONS = 24, 2, 3  # of one batch: each scene gives itself, so many windows and regions
FRESH = 6  # of a batch's scenes; the others come from the last REPLAY ones, with other views and captions
REPLAY = 600
PEAK_RATE, WARM_UP, WEIGHT_DECAY = 1e-3, 60, 0.05
FIRST_SCALE, LAST_SCALE = 30.0, 60.0  # of the cosines in the loss: at the start, and at most
POSITION_GAIN = 6.0  # open_clip's first position vectors are faint; made louder, shapes are learned twice as fast


def build_model(config: Path = CONFIG) -> CLIP:
    """The untrained CLIP of a model-config file."""
    return CLIP(**json.loads(config.read_text()))


def load_model(weights: Path = MODELS / f"{NAME}.safetensors", config: Path = CONFIG) -> CLIP:
    """The trained CLIP in float32, ready to use."""
    model = build_model(config)
    model.load_state_dict(load_file(weights))
    return model.eval()


def save_model(model: CLIP, tokens_seen: Tensor, path: Path) -> None:
    """Write float16 weights; the vectors of tokens never trained on become 0, so that strange words say nothing."""
    state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items() if key != "attn_mask"}
    state["token_embedding.weight"][~tokens_seen] = 0
    save_file(state, path)


def text_features(model: CLIP, tokens: Tensor) -> Tensor:
    """What `model.encode_text` gives, (N, embed_dim), without the padding of tokens (N, 77), which causal attention
    never looks at; texts of about the same length together."""
    lengths = (tokens != 0).sum(dim=1)
    parts, order = [], lengths.argsort(stable=True)
    for rows in order.chunk(3):
        length = int(lengths[rows].max())
        some = tokens[rows, :length]
        x = model.token_embedding(some) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        parts.append(x[torch.arange(len(x)), some.argmax(dim=1)] @ model.text_projection)
    return torch.cat(parts)[order.argsort()]


def window_features(model: CLIP, windows: Tensor) -> Tensor:
    """Image features (W, D) of windows (W, 3, side, side), by a random half of a transformer's patches: a FLIP."""
    visual: Any = model.visual
    if isinstance(visual, ModifiedResNet):
        whole: Tensor = visual(windows)
        return whole
    tokens = visual._embeds(windows)
    patches = tokens.shape[1] - 1
    kept = 1 + torch.rand(len(tokens), patches).argsort(dim=1)[:, : round(patches * (1 - DROPPED))]
    tokens = torch.cat([tokens[:, :1], tokens[torch.arange(len(tokens))[:, None], kept]], dim=1)
    for block in visual.transformer.resblocks:
        tokens = block(tokens)
    pooled: Tensor = visual.ln_post(tokens[:, 0]) @ visual.proj
    return pooled


def region_features(model: CLIP, scenes: Tensor, regions: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Image features (S, D) of scenes (S, 3, side, side), and of regions (R, grid, grid) of them as the pipeline's global
    features are defined (R, D). `owners` (R,): the scene of each region."""
    visual: Any = model.visual
    if isinstance(visual, ModifiedResNet):
        tower = MaskedResNet(visual)
        maps = tower.feature_map(scenes)
        pooled = tower.masked(functional.normalize(maps, dim=1), owners.numpy(), regions, 1, len(regions))
        return visual.attnpool(maps), pooled
    blocks, tokens = list(visual.transformer.resblocks), visual._embeds(scenes)
    for block in blocks[:-MASKED_BLOCKS]:
        tokens = block(tokens)
    order = (regions > 0).flatten(1).sum(dim=1).argsort(stable=True)
    parts = [_masked_tail(visual, tokens, regions[rows].flatten(1), owners[rows]) for rows in order.chunk(3)]
    for block in blocks[-MASKED_BLOCKS:]:
        tokens = block(tokens)
    return visual.ln_post(tokens[:, 0]) @ visual.proj, torch.cat(parts)[order.argsort()]


def _masked_tail(visual: Any, tokens: Tensor, weights: Tensor, owners: Tensor) -> Tensor:
    """Features (R, D) of regions with patch weights (R, P), of scenes whose tokens (S, 1 + P, width) enter the tail.

    Patches of weight 0 are zero vectors, all alike: one stands for those left out, so many times in the softmax.
    """
    kept = int((weights > 0).sum(dim=1).max())
    values, places = weights.topk(kept, dim=1)
    seen = torch.cat([tokens[owners, :1], tokens[owners[:, None], 1 + places], 0 * tokens[owners, :1]], dim=1)
    scale = functional.pad(functional.pad(values, (1, 0), value=1.0), (0, 1))[..., None]
    times = torch.zeros(kept + 2)
    times[-1] = math.log(max(weights.shape[1] - kept, 1e-9))
    for block in list(visual.transformer.resblocks)[-MASKED_BLOCKS:]:
        seen = block(seen * scale, attn_mask=times.expand(kept + 2, -1))
    pooled: Tensor = visual.ln_post(seen[:, 0]) @ visual.proj
    return pooled


def contrastive_loss(images: Tensor, texts: Tensor, owners: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """Symmetric InfoNCE of images (N, D) and texts (T + M, D), of which text i < T belongs to image owners[i].

    `true` is bool (T + M, N): a text that may be said of an image is no negative for it. The last M texts are negatives
    only.
    """
    logits = scale * functional.normalize(texts, dim=1) @ functional.normalize(images, dim=1).T
    own = logits[torch.arange(len(owners)), owners]
    false = logits.masked_fill(true, -math.inf)
    against_images, against_texts = false[: len(owners)].logsumexp(dim=1), false.logsumexp(dim=0)[owners]
    return (functional.softplus(against_images - own) + functional.softplus(against_texts - own)).mean() / 2


class Trainer:
    """A fresh model, its optimiser, and one `step` over a batch of samples."""

    def __init__(self, model: CLIP) -> None:
        self.model = model.train()
        with torch.no_grad():
            model.logit_scale.fill_(math.log(FIRST_SCALE))
            if not isinstance(model.visual, ModifiedResNet):
                model.visual.positional_embedding.mul_(POSITION_GAIN)
        self.tokenizer = SimpleTokenizer(context_length=77)
        self.tokens_seen = torch.zeros(model.token_embedding.num_embeddings, dtype=torch.bool)
        decayed = [p for key, p in model.named_parameters() if p.ndim == 2 and "embedding" not in key]
        known = {id(p) for p in decayed}
        others = [p for p in model.parameters() if id(p) not in known]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)

    def step(self, batch: Samples, rate: float) -> float:
        """One update at the given learning rate; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        captions = [caption for view in batch.views for caption in view.captions]
        owners = torch.tensor([i for i, view in enumerate(batch.views) for _ in view.captions])
        captions += [foil for view in batch.views for foil in view.foils]
        tokens = self.tokenizer([caption.text for caption in captions])
        self.tokens_seen[tokens] = True
        scenes, regions = region_features(self.model, batch.scenes, batch.regions, batch.owners)
        images = torch.cat([scenes, window_features(self.model, batch.windows), regions])
        texts = text_features(self.model, tokens)
        true = torch.from_numpy(truths(captions, batch.views))
        loss = contrastive_loss(images, texts, owners, self.model.logit_scale.exp(), true)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(LAST_SCALE))
        return float(loss.detach())


def learning_rate(step: int, done: float) -> float:
    """Warm-up over the first steps, then a cosine down to 2 % of the peak as `done` goes from 0 to 1."""
    cosine = 0.51 + 0.49 * math.cos(math.pi * min(done, 1.0))
    return PEAK_RATE * min((step + 1) / WARM_UP, cosine)


def batches(seed: int, side: int, grid: tuple[int, int]) -> Iterator[Samples]:
    """Endless batches of SCENES scenes for an encoder of this input size and grid."""
    rng = np.random.default_rng([seed, 0])
    recent: list[Scene] = []
    drawn = 0
    while True:
        fresh = [draw_scene(training_rng(drawn + i, seed)) for i in range(SCENES if not recent else FRESH)]
        drawn += len(fresh)
        replayed = [recent[i] for i in rng.choice(len(recent), SCENES - len(fresh), replace=False)] if recent else []
        yield samples(rng, fresh + replayed, WINDOWS, REGIONS, side, grid)
        recent = (recent + fresh)[-REPLAY:]


class _Batches(IterableDataset[Samples]):
    def __init__(self, seed: int, side: int, grid: tuple[int, int]) -> None:
        self.seed, self.side, self.grid = seed, side, grid

    def __iter__(self) -> Iterator[Samples]:
        torch.set_num_threads(1)
        return batches(self.seed, self.side, self.grid)


def prefetched(seed: int, side: int, grid: tuple[int, int]) -> Iterable[Samples]:
    """`batches`, drawn in a process of their own while the model learns."""
    return DataLoader(_Batches(seed, side, grid), batch_size=None, num_workers=1, prefetch_factor=4)


def held_out_accuracy(model: CLIP, scenes: int) -> dict[str, float]:
    """How often an appearance expression picks its object among its scene's true masks, by each mix of features.

    Features are the pipeline's own. `local`, `global`: alpha 0 and 1; `fused_50`: alpha 0.5; `random`: by chance.
    """
    clip = MaskedClip(model, SimpleTokenizer(context_length=77), short_side=256)
    alphas = {"local": 0.0, "fused_50": 0.5, "fused_85": 0.85, "fused_95": 0.95, "global": 1.0}
    rng = np.random.default_rng(HELD_OUT_SEED)
    right, asked, chance = dict.fromkeys(alphas, 0), 0, 0.0
    for index in range(scenes):
        scene = draw_scene(training_rng(index, HELD_OUT_SEED))
        told = [(i, appearance(rng, scene, i)) for i in range(len(scene.objects))]
        expressions = {i: expression.sentence for i, expression in told if expression is not None}
        if not expressions:
            continue
        masks, boxes = np.stack([o.mask for o in scene.objects]), np.array([o.box for o in scene.objects], dtype=float)
        whole, local = clip.global_features(scene.image, masks), clip.local_features(scene.image, masks, boxes)
        texts = clip.text_features(list(expressions.values()))
        for name, alpha in alphas.items():
            features = alpha * whole + (1 - alpha) * local
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            right[name] += int(np.count_nonzero((texts @ features.T).argmax(axis=1) == list(expressions)))
        asked += len(expressions)
        chance += len(expressions) / len(masks)
    return {**{name: round(count / asked, 4) for name, count in right.items()}, "random": round(chance / asked, 4)}


def train(minutes: float | None, steps: int | None, seed: int, out: Path, config: Path = CONFIG) -> dict[str, Any]:
    """Train a model of `config` for so many minutes or steps, write weights and log into `out`, return the log."""
    torch.manual_seed(seed)
    model = build_model(config)
    tower = MaskedClip(model, SimpleTokenizer(context_length=77)).tower
    trainer, weights = Trainer(model), out / f"{config.stem}.safetensors"
    losses: list[float] = []
    log: dict[str, Any] = {"seed": seed, "threads": torch.get_num_threads(), "losses": [], "held_out": []}
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for step, batch in enumerate(prefetched(seed, tower.input_size[0], tower.grid)):
        spent = (time.monotonic() - start) / 60
        done = step / steps if steps is not None else spent / minutes if minutes is not None else 1.0
        if done >= 1:
            break
        losses.append(trainer.step(batch, learning_rate(step, done)))
        if (step + 1) % 50 == 0:
            log["losses"].append([step + 1, round(float(np.mean(losses[-50:])), 4)])
            print(f"step {step + 1}, {spent:.1f} min, loss {log['losses'][-1][1]}", flush=True)
        if (step + 1) % 250 == 0:
            save_model(model, trainer.tokens_seen, weights)
            log["held_out"].append([step + 1, held_out_accuracy(model.eval(), 40)])
            model.train()
            print(f"  held out: {log['held_out'][-1][1]}", flush=True)
    save_model(model, trainer.tokens_seen, weights)
    log |= {"steps": len(losses), "seconds": round(time.monotonic() - start, 1)}
    log["final"] = held_out_accuracy(load_model(weights, config), HELD_OUT_SCENES)
    (out / f"{config.stem}.log.json").write_text(json.dumps(log, indent=1) + "\n")
    print(f"{weights}: {log['final']}", flush=True)
    return log


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.train_clip", description="Train a small CLIP for RefShapes.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="batches to train on, instead of so many minutes")
    length.add_argument("--minutes", type=float, default=MINUTES, help=f"how long to train (default {MINUTES:g})")
    parser.add_argument("--config", type=Path, default=CONFIG, help="model config; names weights and log, too")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for weights and log")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.minutes, options.steps, options.seed, options.out, options.config)


if __name__ == "__main__":
    main()
