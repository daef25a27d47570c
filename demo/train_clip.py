"""Train RefShapes' small CLIP: `python -m demo.train_clip [--steps N | --minutes N] [--threads T] [--out FOLDER]`.

The architecture is open_clip's own, read from `refshapes_clip.json` in open_clip's model-config format. Scenes are drawn
on the fly from the training namespace of seeds; the figures in the log come from held-out scenes and from the weights
as written, in float16.
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
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, IterableDataset

from demo.captions import appearance
from demo.clip_samples import Sample, samples, truths
from demo.scenes import Scene, draw_scene, training_rng
from stages.visual.encoder import MaskedClip

MODELS = Path(__file__).parent / "models"
NAME = "refshapes_clip"
CONFIG = MODELS / f"{NAME}.json"
HELD_OUT_SEED = 1_000_000  # of training_rng; the benchmark's scenes stay unseen until it runs
HELD_OUT_SCENES = 300
STEPS = 1500  # about 20 minutes on one core
SCENES, CROPS = 36, 2  # of one batch: each scene gives itself and so many crops
FRESH = 14  # of a batch's scenes; the others come from the last REPLAY ones, with other crops and captions
REPLAY = 400
PEAK_RATE, WARM_UP, WEIGHT_DECAY = 5e-4, 60, 0.05
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
    never looks at."""
    length = int((tokens != 0).sum(dim=1).max())
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    pooled: Tensor = x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection
    return pooled


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """Symmetric InfoNCE of images (N, D) and texts (N + M, D), of which text i < N belongs to image i.

    `true` is bool (N + M, N): a text that happens to be true of another image is no negative for it. The last M texts
    are negatives only.
    """
    logits = scale * functional.normalize(images, dim=1) @ functional.normalize(texts, dim=1).T
    own = torch.eye(len(images), len(texts), dtype=torch.bool)
    logits = logits.masked_fill(true.T & ~own, -math.inf)
    target = torch.arange(len(images))
    by_text = logits[:, : len(images)].T
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(by_text, target)) / 2


class Trainer:
    """A fresh model, its optimiser, and one `step` over a batch of samples."""

    def __init__(self, model: CLIP) -> None:
        self.model = model.train()
        with torch.no_grad():
            model.logit_scale.fill_(math.log(FIRST_SCALE))
            model.visual.positional_embedding.mul_(POSITION_GAIN)
        self.tokenizer = SimpleTokenizer(context_length=77)
        self.tokens_seen = torch.zeros(model.token_embedding.num_embeddings, dtype=torch.bool)
        decayed = [p for key, p in model.named_parameters() if p.ndim == 2 and "embedding" not in key]
        known = {id(p) for p in decayed}
        others = [p for p in model.parameters() if id(p) not in known]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))

    def step(self, batch: list[Sample], rate: float) -> float:
        """One update at the given learning rate; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        captions = [sample.caption for sample in batch] + [sample.foil for sample in batch]
        tokens = self.tokenizer([caption.text for caption in captions])
        self.tokens_seen[tokens] = True
        pixels = torch.stack([sample.pixels for sample in batch])
        # Twice as fast together on a CPU that has bfloat16; its fused attention is slow for such short sequences.
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            images = self.model.encode_image(pixels)
            texts = text_features(self.model, tokens)
        scale = self.model.logit_scale.exp()
        loss = contrastive_loss(images.float(), texts.float(), scale, torch.from_numpy(truths(captions, batch)))
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


def batches(seed: int) -> Iterator[list[Sample]]:
    """Endless batches of SCENES * (1 + CROPS) samples."""
    rng = np.random.default_rng([seed, 0])
    recent: list[Scene] = []
    drawn = 0
    while True:
        fresh = [draw_scene(training_rng(drawn + i, seed)) for i in range(SCENES if not recent else FRESH)]
        drawn += len(fresh)
        replayed = [recent[i] for i in rng.choice(len(recent), SCENES - len(fresh), replace=False)] if recent else []
        yield [sample for scene in fresh + replayed for sample in samples(rng, scene, CROPS)]
        recent = (recent + fresh)[-REPLAY:]


class _Batches(IterableDataset[list[Sample]]):
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[list[Sample]]:
        return batches(self.seed)


def prefetched(seed: int) -> Iterable[list[Sample]]:
    """`batches`, drawn in a process of their own while the model learns."""
    return DataLoader(_Batches(seed), batch_size=None, num_workers=1, prefetch_factor=4)


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
    trainer = Trainer(build_model(config))
    losses: list[float] = []
    log: dict[str, Any] = {"seed": seed, "threads": torch.get_num_threads(), "losses": [], "held_out": []}
    start = time.monotonic()
    for step, batch in enumerate(prefetched(seed)):
        spent = (time.monotonic() - start) / 60
        done = step / steps if steps is not None else spent / minutes if minutes is not None else 1.0
        if done >= 1:
            break
        losses.append(trainer.step(batch, learning_rate(step, done)))
        if (step + 1) % 50 == 0:
            log["losses"].append([step + 1, round(float(np.mean(losses[-50:])), 4)])
            print(f"step {step + 1}, {spent:.1f} min, loss {log['losses'][-1][1]}", flush=True)
        if (step + 1) % 300 == 0:
            log["held_out"].append([step + 1, held_out_accuracy(trainer.model.eval(), 40)])
            trainer.model.train()
            print(f"  held out: {log['held_out'][-1][1]}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{NAME}.safetensors"
    save_model(trainer.model, trainer.tokens_seen, weights)
    log |= {"steps": len(losses), "seconds": round(time.monotonic() - start, 1)}
    log["final"] = held_out_accuracy(load_model(weights, config), HELD_OUT_SCENES)
    (out / f"{NAME}.log.json").write_text(json.dumps(log, indent=1) + "\n")
    print(f"{weights}: {log['final']}", flush=True)
    return log


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.train_clip", description="Train RefShapes' small CLIP.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=STEPS, help=f"batches to train on (default {STEPS})")
    length.add_argument("--minutes", type=float, help="how long to train instead")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for weights and log")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.minutes, None if options.minutes is not None else options.steps, options.seed, options.out)


if __name__ == "__main__":
    main()
