"""One (alpha, beta) over a table of RefCOCO val's size: from the vectors, and from the pair table."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Result, medians
from stages.fusion import Dots, first_best, fused_scores
from store.ragged import offsets_of

EXPRESSIONS, PROPOSALS, WIDTH = 10_834, 60, 512
PER_IMAGE = 7  # expressions that share an image and so its proposals


def rescore_one(alpha: float = 0.85, beta: float = 0.5) -> Result:
    """Scores and choices of 10,834 expressions x 60 proposals: 512-d vectors fused anew, against the table's columns."""
    rng = np.random.default_rng(0)
    images = -(-EXPRESSIONS // PER_IMAGE)
    f_global, f_local = (rng.normal(size=(images, PROPOSALS, WIDTH)).astype(np.float32) for _ in range(2))
    t_global, t_local = (rng.normal(size=(EXPRESSIONS, WIDTH)).astype(np.float32) for _ in range(2))
    image = np.arange(EXPRESSIONS) // PER_IMAGE

    def dots(features: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return np.concatenate([features[i] @ texts[row] for row, i in enumerate(image)])

    def norms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * b).sum(-1)[image].ravel()

    table = Dots(
        offsets=offsets_of(np.full(EXPRESSIONS, PROPOSALS)),
        a=dots(f_global, t_global),
        b=dots(f_global, t_local),
        c=dots(f_local, t_global),
        d=dots(f_local, t_local),
        global_norm=norms(f_global, f_global),
        cross_norm=norms(f_global, f_local),
        local_norm=norms(f_local, f_local),
        text_norms=np.stack(
            [(x * y).sum(1) for x, y in ((t_global, t_global), (t_local, t_local), (t_global, t_local))], 1
        ),
    )

    def plain() -> np.ndarray:
        """Each expression's vectors fused again, in float32 as they are stored."""
        scores = []
        for row, i in enumerate(image):
            visual = alpha * f_global[i] + (1 - alpha) * f_local[i]
            text = beta * t_global[row] + (1 - beta) * t_local[row]
            scores.append(100 * (visual @ text) / (np.linalg.norm(visual, axis=1) * np.linalg.norm(text)))
        for own in scores:
            own.argmax()
        return np.concatenate(scores)

    def ours() -> np.ndarray:
        scores = table.scores(alpha, beta)
        first_best(scores, table.offsets)
        return scores

    exact = np.concatenate(
        [fused_scores(f_global[i], f_local[i], t_global[r], t_local[r], alpha, beta) for r, i in enumerate(image[:200])]
    )
    error = float(np.abs(ours()[: len(exact)] - exact).max())
    return Result("rescore_one", *medians(plain, ours), error=error, at_most=0.010)
