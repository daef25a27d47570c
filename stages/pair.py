"""Stage pair: the pair table, one row for every (expression, proposal of its image).

After this stage no vector is needed again: any alpha, beta, rule or filter is arithmetic over these columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import cpu_count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stages.contract import Context, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from store.errors import StoreError
from store.ragged import offsets_of
from store.table import Table, read_table, require_same, write_table
from store.vectors import SHARD_ROWS, Vectors

Floats = NDArray[np.float32]
TOGETHER = 8  # images whose features stay in the cache from one column to the next


class Params(BaseParams):
    """The table holds everything that later stages vary, so it has no parameters."""


class Paths(BasePaths):
    index: Path
    proposals: Path
    mask_features: Path
    parse: Path
    text_features: Path
    overlap: Path
    pairs: Path
    outputs: ClassVar[tuple[str, ...]] = ("pairs",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the pair table."""
    summary = Summary()
    index = read_table(paths.index, "index")
    proposals = read_table(paths.proposals, "proposals")
    overlap = read_table(paths.overlap, "overlap")
    parse = read_table(paths.parse, "parse", ())
    masks, text = Vectors(paths.mask_features, "mask_features"), Vectors(paths.text_features, "text_features")
    require_same("pair", (proposals, "index", index), (overlap, "index", index), (overlap, "proposals", proposals))
    require_same("pair", (masks, "proposals", proposals), (text, "parse", parse), (parse, "index", index))

    expressions = expression_columns(index, proposals, overlap, text)
    offsets = expressions["expression_offsets"]
    image_offsets = proposals["image_offsets"]
    proposal = _ranges(image_offsets[expressions["expression_image"]], np.diff(offsets))
    summary.read = {
        "expressions": len(offsets) - 1,
        "proposals": len(proposals["mask"]),
        "strings": len(text.column("truncated")),
    }
    columns: dict[str, Any] = {
        **expressions,
        "proposal": proposal,
        **{name: overlap[name][_overlap_rows(overlap, expressions)] for name in ("intersection", "union")},
        "proposal_score": proposals["score"][proposal],
        "proposal_area": proposals["area"][proposal],
        "proposal_box": proposals["box"][proposal],
    }
    with summary.timed("compute"):
        dots = dot_columns(masks, text, image_offsets, expressions["expression_image"], proposal, context)
    _refuse_non_finite(dots, offsets, proposal)
    columns |= dots
    made_from = {
        "index": index.digest,
        "proposals": proposals.digest,
        "mask_features": masks.digest,
        "text_features": text.digest,
        "overlap": overlap.digest,
    }
    attrs = {"groups": index.attrs["groups"], "score_rule": masks.attrs["score_rule"]}
    write_table(paths.pairs, "pairs", columns, params.config(), made_from, **attrs)
    summary.wrote = {"pairs": len(proposal)}
    summary.skipped = [f"expression {i}: {s}" for i, s in enumerate(expressions["expression_status"]) if s]
    return summary


def _refuse_non_finite(columns: dict[str, Floats], offsets: NDArray[np.int64], proposal: NDArray[np.int64]) -> None:
    """A NaN would win or lose an argmax by accident."""
    for name, column in columns.items():
        bad = np.flatnonzero(~np.isfinite(column))
        if len(bad):
            expression = int(np.searchsorted(offsets, bad[0], "right")) - 1
            raise StoreError(
                f"pair: {len(bad)} values of column {name} are not finite, the first for expression {expression} and "
                f"proposal {proposal[bad[0]]}: the features hold NaN, or overflowed; check the weights and the precision"
            )


def expression_columns(index: Table, proposals: Table, overlap: Table, text: Vectors) -> dict[str, Any]:
    """The per-expression columns of the table."""
    ref = index["expression_ref"]
    image = index["ref_image"][ref]
    rows = [text.column("sentence_string"), text.column("phrase_string")]
    truncated, vectors = text.column("truncated"), text.rows("feature")
    sentence, phrase = (vectors[r] for r in rows)
    return {
        "expression_offsets": offsets_of(np.diff(proposals["image_offsets"])[image]),
        "expression_image": image,
        "expression_ref": ref,
        "expression_group": index["ref_group"][ref],
        "expression_area": overlap["ref_area"][ref],
        "expression_status": [index["ref_status"][r] for r in ref],
        "expression_truncated": truncated[rows[0]] | truncated[rows[1]],
        "text_norms": np.stack(
            [(x * y).sum(1, dtype=np.float32) for x, y in ((sentence, sentence), (phrase, phrase), (sentence, phrase))],
            1,
        ),
    }


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... for each of the ranges, one after another."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)


def _overlap_rows(overlap: Table, expressions: dict[str, Any]) -> NDArray[np.int64]:
    starts = overlap["ref_offsets"][expressions["expression_ref"]]
    return _ranges(starts, np.diff(expressions["expression_offsets"]))


def dot_columns(
    masks: Vectors,
    text: Vectors,
    image_offsets: NDArray[np.int64],
    image: NDArray[np.int64],
    proposal: NDArray[np.int64],
    context: Context,
) -> dict[str, Floats]:
    """The float32 columns (P,) of the table: A, B, C, D and the norms.

    Each image's proposals times its texts; norms once for each proposal.

    Args:
        image_offsets: proposals of each image (I+1,). image: of each expression (E,). proposal: of each pair (P,).
    """
    order = np.argsort(image, kind="stable")
    counts = np.diff(image_offsets)[image]
    ks = masks.ks()
    job = Products(
        image_offsets=image_offsets,
        owned=np.searchsorted(image[order], np.arange(len(image_offsets))),
        pair_offsets=offsets_of(counts[order]),
        strings=np.stack([text.column("sentence_string"), text.column("phrase_string")], 1)[order],
        vectors=text.rows("feature"),
        dots={n: np.empty(len(proposal), np.float32) for n in ("c", "d", *(f"{n}.k{k}" for k in ks for n in "ab"))},
        norms={
            name: np.zeros(image_offsets[-1], np.float32)
            for name in ("local_norm", *(f"{name}.k{k}" for k in ks for name in ("global_norm", "cross_norm")))
        },
    )
    with ThreadPoolExecutor(cpu_count()) as pool:
        for first, last in context.track(list(_image_blocks(image_offsets)), "image blocks"):
            base, stop = image_offsets[first], image_offsets[last]
            local = masks.rows("local", base, stop)
            by_k = {k: masks.rows(f"global.k{k}", base, stop) for k in ks}
            runs = [(i, min(i + TOGETHER, last)) for i in range(first, last, TOGETHER)]
            list(pool.map(partial(job.fill, base=base, local=local, by_k=by_k), runs))
    dots = job.dots
    if not np.array_equal(order, np.arange(len(order))):
        starts = np.empty_like(job.pair_offsets[:-1])
        starts[order] = job.pair_offsets[:-1]
        rows = _ranges(starts, counts)
        dots = {name: column[rows] for name, column in dots.items()}
    return {**dots, **{name: column[proposal] for name, column in job.norms.items()}}


@dataclass(frozen=True)
class Products:
    """The products of each image's texts with its proposals, expressions in the order of their images.

    Attributes:
        image_offsets: proposals of each image (I+1,). owned: its expressions (I+1,). pair_offsets: their pairs (E+1,).
        strings: rows of ``vectors`` for sentence and phrase (E, 2). vectors: text features (S, D).
        dots: columns (P,) to fill. norms: columns (N,) to fill, where an image has expressions.
    """

    image_offsets: NDArray[np.int64]
    owned: NDArray[np.int64]
    pair_offsets: NDArray[np.int64]
    strings: NDArray[np.int64]
    vectors: Floats
    dots: dict[str, Floats]
    norms: dict[str, Floats]

    def fill(self, images: tuple[int, int], base: int, local: Floats, by_k: dict[int, Floats]) -> None:
        """Fill in the columns of images (first, last), whose features stand in ``local`` and ``by_k`` from row ``base`` on."""
        from stages.scoring.products_kernel import multiply_images

        shared = (*images, self.image_offsets, self.owned, self.pair_offsets, self.strings, self.vectors, base)
        dots, norms = self.dots, self.norms
        own = norms["local_norm"]
        multiply_images(*shared, local, local, dots["c"], dots["d"], own, own)
        for k, scene in by_k.items():
            products = dots[f"a.k{k}"], dots[f"b.k{k}"], norms[f"global_norm.k{k}"], norms[f"cross_norm.k{k}"]
            multiply_images(*shared, scene, local, *products)


def _image_blocks(image_offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of images (first, last) that own about a shard of proposals: vectors are read in large pieces."""
    first = 0
    while first < len(image_offsets) - 1:
        last = int(np.searchsorted(image_offsets, image_offsets[first] + SHARD_ROWS, "right")) - 1
        last = min(max(last, first + 1), len(image_offsets) - 1)
        yield first, last
        first = last
