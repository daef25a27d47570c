"""What half precision changes on RefShapes, FreeSOLO and CLIP each by itself, and how fast it is on this machine."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.freesolo import raw_error
from benchmarks.harness import Result, medians
from benchmarks.roofline import threads
from demo.refshapes import FAMILIES, write_benchmark
from stages.clip.state_dict import read_state_dict
from stages.clip.weights import load_clip
from stages.device.precision import Precision, bf16_gain
from stages.proposals.freesolo import FreeSolo, Proposals, padded
from stages.scoring.fusion import fused_scores
from stages.text.noun_phrase import parse_sentences
from stages.text.spacy_model import load_spacy
from stages.visual.encoder import MaskedClip
from store.images import load_image
from store.untrusted import load_refs

MODELS = Path(__file__).parent.parent / "demo/models"
IMAGES_PER_SPLIT = 4  # 12 images, about 100 expressions
SHORT_SIDE, ALPHA, BETA = 256, 0.3, 0.5
SAME_OBJECT = 0.5  # least IoU of a proposal with the one it stands for


class Scene(NamedTuple):
    """An image with its expressions: (clean sentence, noun phrase) each."""

    image: Image.Image
    expressions: list[tuple[str, str]]


class Changes(NamedTuple):
    """What became of the float32 proposals of an image."""

    lost: int  # without a proposal of IoU 0.5
    added: int  # more proposals than before
    flipped: int  # pixels of the others' masks that differ
    pixels: int  # pixels of the others' masks


def precision_bf16() -> Result:
    """FreeSOLO's network in bf16 against float32."""
    return compare("bf16")


def precision_fp16() -> Result:
    """FreeSOLO's network in fp16 against float32."""
    return compare("fp16")


def compare(precision: Precision) -> Result:
    """Seconds of FreeSOLO's proposals of an image in both precisions; all that changes is in the note."""
    with TemporaryDirectory() as folder:
        scenes = list(read_scenes(Path(folder) / "refshapes"))
    weights = read_state_dict(MODELS / "refshapes_freesolo.safetensors")
    options: dict[str, Any] = {"short_side": SHORT_SIDE, "update_threshold": 0.08, "max_proposals": 50}
    exact = FreeSolo.from_state_dict(weights, **options)
    half = FreeSolo.from_state_dict(weights, **options, precision=precision)
    error, changes, proposals = 0.0, [], []
    for scene in scenes:
        batch = padded(exact.preprocess(scene.image))[None]
        error = max(error, raw_error(half.forward(batch), exact.forward(batch)))
        proposals.append(exact.propose(scene.image))
        changes.append(compared(proposals[-1], half.propose(scene.image)))
    lost, added, flipped, pixels = (sum(column) for column in zip(*changes, strict=True))
    with threads(2):
        plain, ours = medians(lambda: exact.propose(scenes[0].image), lambda: half.propose(scenes[0].image), repeats=3)
        gain = f"; bf16 convolutions {bf16_gain():.2f} times as fast as float32's here" if precision == "bf16" else ""
    note = (
        f"{sum(len(p.scores) for p in proposals)} proposals of {len(scenes)} images: {lost} lost, {added:+d} in number, "
        f"{flipped / pixels:.2%} of mask pixels flipped; {clip_changes(scenes, proposals, precision)}{gain}"
    )
    return Result(f"precision_{precision}", plain, ours, error=error, note=note)


def compared(exact: Proposals, half: Proposals) -> Changes:
    """Each float32 proposal against the half-precision one that overlaps it most."""
    a, b = (p.masks.reshape(len(p.masks), -1) for p in (exact, half))
    common = a.astype(np.float32) @ b.astype(np.float32).T
    overlap = common / (a.sum(1)[:, None] + b.sum(1) - common)
    kept = np.flatnonzero(overlap.max(1, initial=0) >= SAME_OBJECT)
    differing = sum(int((a[i] != b[overlap[i].argmax()]).sum()) for i in kept)
    return Changes(len(a) - len(kept), len(b) - len(a), differing, int(a[kept].sum()))


def clip_changes(scenes: list[Scene], proposals: list[Proposals], precision: Precision) -> str:
    """CLIP in half precision on float32's proposals: its vectors' relative errors, and other masks chosen."""
    exact, half = (masked_clip(kind) for kind in ("float32", precision))
    errors: dict[str, list[float]] = defaultdict(list)
    flips, margins = 0, []
    for scene, found in zip(scenes, proposals, strict=True):
        vectors = [features(clip, scene, found) for clip in (exact, half)]
        for kind, expected in vectors[0].items():
            lengths = np.linalg.norm(expected, axis=1)
            errors[kind] += (np.linalg.norm(vectors[1][kind] - expected, axis=1) / lengths).tolist()
        scores, other = (scored(v) for v in vectors)
        for row in np.flatnonzero(scores.argmax(1) != other.argmax(1)):
            flips += 1
            margins.append(scores[row].max() - scores[row, other[row].argmax()])
    worst = ", ".join(f"{kind} {max(values):.1e}" for kind, values in errors.items())
    count = sum(len(scene.expressions) for scene in scenes)
    least = f" (largest margin lost {max(margins):.2f})" if margins else ""
    return f"CLIP vectors: {worst}; {flips} of {count} chosen masks changed{least}"


def features(clip: MaskedClip, scene: Scene, found: Proposals) -> dict[str, NDArray[np.float32]]:
    """Vectors of the masks (N, D) and of the scene's expressions (E, D)."""
    prepared = clip.prepare(scene.image)
    sentences, phrases = zip(*scene.expressions, strict=True)
    return {
        "global": clip.global_features(prepared, found.masks),
        "local": clip.local_features(prepared, found.masks, found.boxes),
        "sentence": clip.text_features(sentences),
        "phrase": clip.text_features(phrases),
    }


def scored(vectors: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Scores (E, N)."""
    texts = zip(vectors["sentence"], vectors["phrase"], strict=True)
    return np.stack([fused_scores(vectors["global"], vectors["local"], s, p, ALPHA, BETA) for s, p in texts])


def masked_clip(precision: Precision) -> MaskedClip:
    """RefShapes' CLIP in a precision."""
    model, tokenizer = load_clip(
        str(MODELS / "refshapes_clip.json"), MODELS / "refshapes_clip.safetensors", precision=precision
    )
    return MaskedClip(model, tokenizer, short_side=SHORT_SIDE)


def read_scenes(folder: Path) -> Iterator[Scene]:
    """A few images of RefShapes with all their expressions, written to ``folder``."""
    write_benchmark(folder, IMAGES_PER_SPLIT)
    nlp = load_spacy("en_core_web_sm")
    raw: dict[int, list[str]] = defaultdict(list)
    names: dict[int, str] = {}
    for family in FAMILIES:
        instances = json.loads((folder / family / "instances.json").read_text())
        names |= {row["id"]: row["file_name"] for row in instances["images"]}
        for ref in load_refs(folder / family / "refs(synth).p"):
            raw[ref["image_id"]] += [sentence["raw"] for sentence in ref["sentences"]]
    for image_id, name in sorted(names.items()):
        expressions = [(parsed.sentence, parsed.noun_phrase) for parsed in parse_sentences(nlp, raw[image_id])]
        yield Scene(load_image(folder / "images" / name), expressions)
