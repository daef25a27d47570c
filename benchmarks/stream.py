"""From one image and its expressions to scores: the released procedure, ref by ref without gradients, against ours."""

from __future__ import annotations

import numpy as np
import open_clip
import torch

from benchmarks.freesolo import GOLDEN
from benchmarks.harness import Result, medians
from benchmarks.roofline import THREADS, threads
from benchmarks.text import SPACY, released_parse
from benchmarks.visual import K, model, released_visual, scene
from pipeline.golden.folder import Folder
from stages.proposals.freesolo import FreeSolo, load_network
from stages.scoring.fusion import fused_scores
from stages.text.encoder import TextEncoder
from stages.text.noun_phrase import parse_sentences
from stages.text.spacy_model import load_spacy
from stages.visual.encoder import MaskedClip

ALPHA, BETA = 0.95, 0.5
REFS = (
    ("the woman in the orange suit", "smiling astronaut", "woman with short hair in front of the flag"),
    ("flag behind the woman on the left", "left flag", "the american flag"),
    ("model of the space shuttle", "shuttle on the right", "the white shuttle behind her shoulder"),
)


def visual_stream() -> Result:
    """One photograph with 3 refs of 3 sentences: FreeSOLO R101 and ViT-B/32 at their true sizes, float32, 2 threads."""
    import spacy

    folder, image = Folder(GOLDEN), scene()[0]
    weights = folder.weights.fill(folder.json("freesolo_shapes.json"), folder.weights.SEEDS["freesolo_r101"])
    nlp = load_spacy(SPACY)
    whole, tokenizer = spacy.load(nlp.path), open_clip.get_tokenizer("ViT-B-32-quickgelu")
    plain_net, net = FreeSolo(load_network(weights)), FreeSolo.from_state_dict(weights)
    clip, texts = MaskedClip(model(), tokenizer), TextEncoder(model(), tokenizer)

    @torch.inference_mode()
    def plain() -> list[np.ndarray]:
        scores = []
        for sentences in REFS:
            found = plain_net.propose(image)
            f_global, f_local = released_visual(model(), image, found.masks, found.boxes)
            for raw in sentences:
                sentence, phrase = (
                    model().encode_text(tokenizer([text]))[0].numpy() for text in released_parse(whole, raw)
                )
                scores.append(fused_scores(f_global, f_local, sentence, phrase, ALPHA, BETA))
        return scores

    def ours() -> list[np.ndarray]:
        found = net.propose(image)
        encoded = clip.encode_images([(image, found.masks, found.boxes)], [K])[0]
        parsed = parse_sentences(nlp, [raw for sentences in REFS for raw in sentences])
        strings = sorted({text for p in parsed for text in (p.sentence, p.noun_phrase)})
        vectors = dict(zip(strings, texts.encode(strings)[0], strict=True))
        return [
            fused_scores(encoded.by_k[K], encoded.local, vectors[p.sentence], vectors[p.noun_phrase], ALPHA, BETA)
            for p in parsed
        ]

    with threads(THREADS):
        expected, got = plain(), ours()
        seconds = medians(plain, ours, repeats=2, warm_up=False)
    same = sum(int(a.argmax()) == int(b.argmax()) for a, b in zip(expected, got, strict=True))
    error = max(float(np.abs(a - b).max()) for a, b in zip(expected, got, strict=True)) / 100
    note = f"{len(got[0])} proposals; same choice in {same} of {len(got)}; error of the cosine"
    return Result("visual_stream", *seconds, error=error, at_least=4, note=note)
