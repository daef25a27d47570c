"""The pair table as the score and sweep stages use it: loaded, filtered, grouped; no vectors, no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.contract import Params
from stages.scoring.fusion import Dots, Floats, first_best
from stages.scoring.heat import POOLINGS, heat_name
from stages.scoring.metrics import Empty, Outcome, outcome_of_choice
from stages.scoring.other_products import bank_dot_name, class_dot_name, other_dot_name
from stages.scoring.products import TEXTS, dot_name, text_product_name, view_product_name
from stages.scoring.score_rule import ScoreRule
from store.errors import ParameterError, StoreError, nearest
from store.ragged import Offsets, offsets_of, owners_of
from store.schema import members
from store.states import EVALUATED
from store.table import Table, read_table, stored_columns
from store.usable import lost_norms

ROWS = tuple(f"expression_{name}" for name in ("offsets", "group", "image", "ref", "area", "state", "truncated"))
COLUMNS = ("proposal", "intersection", "union", "proposal_score", "proposal_area")
SENTENCE, PHRASE = TEXTS
LOCAL = "local"


class Filters(Params):
    """Which proposals take part. All of them by default: filtering must not cost a forward pass."""

    min_score: float = Field(0.0, ge=0, le=1, description="least confidence of the generator")
    min_area: int = Field(0, ge=0, description="least area in pixels")
    top_n: int = Field(0, ge=0, description="only the generator's first n proposals of an image; 0 for all")

    def keeps(self, score: NDArray[Any], area: NDArray[Any], rank: NDArray[Any]) -> NDArray[np.bool_]:
        """Which proposals take part, by confidence, area in pixels and place in the generator's order, all (N,)."""
        kept: NDArray[np.bool_] = (score >= self.min_score) & (area >= self.min_area)
        return kept & (rank < self.top_n) if self.top_n else kept


class Evaluation(Filters):
    """What holds at every alpha and beta (paper sec. 4.2)."""

    k: int = Field(3, ge=0, description="masked_blocks of the global feature")
    empty: Empty = Field("count", description="expressions without a choice: IoU 0, or left out as in the release")


class Scoring(Evaluation):
    """How proposals are scored (paper sec. 3.3, 3.4 and 4.2)."""

    alpha: float = Field(0.95, ge=0, le=1, description="weight of the global visual feature")
    alpha_by_dataset: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="data set -> its own alpha (paper: RefCOCOg 0.85)"
    )
    alpha_by_encoder: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="encoder other than the main one -> its own alpha, for all data sets"
    )
    beta: float = Field(0.5, ge=0, le=1, description="weight of the sentence feature")

    def for_encoder(self, name: str, encoders: Sequence[str]) -> Self:
        """What holds for encoder ``name``, which is not the main one.

        Args:
            encoders: all of the run, the main one first.

        Raises:
            ParameterError: ``alpha_by_encoder`` names one that is not there, or the main one, whose is ``alpha``.
        """
        for other in self.alpha_by_encoder:
            if other not in encoders[1:]:
                raise ParameterError(
                    f"alpha_by_encoder: no encoder {other!r} beside the main one; {nearest(other, encoders[1:])}"
                )
        if name not in self.alpha_by_encoder:
            return self
        return self.model_copy(update={"alpha": self.alpha_by_encoder[name], "alpha_by_dataset": {}})

    def alpha_of(self, groups: list[tuple[str, str]]) -> list[float]:
        """Alpha of every (data set, split).

        Raises:
            ParameterError: ``alpha_by_dataset`` names a data set that is not there.
        """
        datasets = {dataset for dataset, _ in groups}
        for name in self.alpha_by_dataset:
            if name not in datasets:
                raise ParameterError(f"alpha_by_dataset: no data set {name!r}; {nearest(name, datasets)}")
        return [self.alpha_by_dataset.get(dataset, self.alpha) for dataset, _ in groups]


class Bootstrap(Params):
    """The confidence intervals: percentile bootstrap over images."""

    resamples: int = Field(1000, ge=0, le=100_000, description="0 for no intervals")
    seed: int = Field(0, ge=0, description="of the resampling")


@dataclass(frozen=True)
class PairTable:
    """The pairs of all expressions for one k.

    Attributes:
        groups: (data set, split) of each group. group, image, area: of each expression (E,).
        evaluated: whether the metrics are about the expression (E,), by its ``state`` (``store.states``), only counted.
        intersection, union: pixels (P,). kept: position of each pair among its expression's unfiltered pairs (P,).
        columns: every other column of the file, None for a table that is filtered.
    """

    dots: Dots
    groups: list[tuple[str, str]]
    group: NDArray[np.int32]
    image: NDArray[np.int64]
    ref: NDArray[np.int64]
    area: NDArray[np.int64]
    evaluated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    intersection: NDArray[np.int64]
    union: NDArray[np.int64]
    proposal_score: NDArray[np.float32]
    proposal_area: NDArray[np.int64]
    kept: NDArray[np.int64]
    columns: Columns | None = None
    state: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, np.str_))

    @property
    def offsets(self) -> Offsets:
        return self.dots.offsets

    @cached_property
    def lost(self) -> NDArray[np.bool_]:
        """The pairs whose proposal or text has no usable feature (P,): they are never chosen."""
        dots = self.dots
        text = lost_norms(dots.text_norms[:, 0]) | lost_norms(dots.text_norms[:, 1])
        proposal: NDArray[np.bool_] = lost_norms(dots.local_norm) | lost_norms(dots.global_norm)
        return proposal | np.repeat(text, np.diff(self.offsets))

    def members(self, group: int) -> NDArray[np.int64]:
        """The evaluated expressions of a group."""
        return np.flatnonzero((self.group == group) & self.evaluated)

    def alphas(self, scoring: Scoring) -> NDArray[np.float64]:
        """Alpha of every expression (E,)."""
        return np.array(scoring.alpha_of(self.groups), np.float64)[self.group]

    def choice(self, scores: Floats, filters: Filters) -> NDArray[np.int64]:
        """The best pair of each expression among those that ``filters`` keep and that are not ``lost``.

        As ``filtered`` and ``first_best`` find it. Many filters over the same scores cost no copies of the table.

        Args:
            scores: of all pairs (P,); -inf for one that must not be chosen.

        Returns:
            Positions among the pairs of each expression (E,), also of those left out; -1 for none.
        """
        keep = filters.keeps(self.proposal_score, self.proposal_area, self.kept) & ~self.lost & (scores > -np.inf)
        if keep.all():
            return first_best(scores, self.offsets)
        chosen = first_best(np.where(keep, scores, -np.inf), self.offsets)
        decided = np.flatnonzero(chosen >= 0)
        chosen[decided[~keep[self.offsets[decided] + chosen[decided]]]] = -1
        return chosen

    def outcome(self, chosen: NDArray[np.int64]) -> Outcome:
        """Outcome of choosing ``chosen`` (E,), positions among the (filtered) pairs of each expression."""
        return outcome_of_choice(chosen, self.offsets, self.intersection, self.union, self.area)

    def filtered(self, filters: Filters) -> PairTable:
        """The table without the pairs whose proposal a filter rejects, and without those that are ``lost``."""
        keep = filters.keeps(self.proposal_score, self.proposal_area, self.kept) & ~self.lost
        if keep.all():
            return self
        counts = np.bincount(owners_of(self.offsets)[keep], minlength=len(self.group))
        per_pair = ("a", "b", "c", "d", "global_norm", "cross_norm", "local_norm")
        dots = replace(self.dots, offsets=offsets_of(counts), **{n: getattr(self.dots, n)[keep] for n in per_pair})
        columns = ("intersection", "union", "proposal_score", "proposal_area", "kept")
        return replace(self, dots=dots, columns=None, **{n: getattr(self, n)[keep] for n in columns})


class MissingViewError(ParameterError):
    """A pair table lacks a view that was asked for."""


class Columns:
    """The columns of a pair table that rules ask for, each read when it is first asked for, all of the same file.

    Attributes:
        digest: of the file as it was when this was made.
        views, texts: the labels of views and the names of texts that the table holds.
        maps: the kinds of heat maps whose means it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = read_table(path, "pairs", ()).digest
        self.names = stored_columns(path, "pairs")
        cells = [cell.rpartition("*") for cell in members(self.names, "dot")]
        self.views = list(dict.fromkeys(view for view, _, _ in cells))
        self.texts = list(dict.fromkeys(text for _, _, text in cells))
        other = f".{POOLINGS[1]}"
        self.maps = [kind for kind in members(self.names, "heat") if not kind.endswith(other)]
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """A column as it is stored.

        Raises:
            StoreError: the table has none of that name, it is damaged, or the file was replaced meanwhile.
        """
        if name not in self._read:
            self._read[name] = self.read([name])[name]
        return self._read[name]

    def read(self, names: Sequence[str]) -> Table:
        """Columns by their names. Raises as ``[name]``."""
        table = read_table(self.path, "pairs", names)
        if table.digest != self.digest:
            raise StoreError(f"{self.path}: was replaced while it was read; run the same command again")
        return table

    def dot(self, view: str, text: str) -> Floats:
        """A view's vector times a text's, float32 (P,)."""
        column: Floats = self[dot_name(self._known(view), text)]
        return column

    def view_product(self, view: str, other: str) -> Floats:
        """Two views of a proposal multiplied, for each pair, float32 (P,); a view with itself is its squared length."""
        by_proposal: Floats = self[view_product_name(self._known(view), self._known(other))]
        by_pair: Floats = by_proposal[self["proposal"]]
        return by_pair

    def view_squares(self, view: str) -> Floats:
        """The squared length of a view's vector of each proposal, float32 (N,)."""
        column: Floats = self[view_product_name(self._known(view), view)]
        return column

    def text_product(self, text: str, other: str) -> Floats:
        """Two texts of an expression multiplied, float32 (E,)."""
        column: Floats = self[text_product_name(text, other)]
        return column

    def other_dot(self, view: str) -> Floats:
        """A view's vector times each of the other noun phrases', float32 (Y,): see ``stages.scoring.others``."""
        column: Floats = self[other_dot_name(self._known(view))]
        return column

    def bank_dot(self, view: str) -> Floats:
        """A view's vector times the mean sentence of each group, for each proposal, float32 (N, G)."""
        column: Floats = self[bank_dot_name(self._known(view))]
        return column

    def heat(self, kind: str, pooling: str) -> Floats:
        """The mean of a kind's heat map in each pair's mask, float32 (P,), NaN where there is none."""
        column: Floats = self[heat_name(kind, pooling)]
        return column

    def class_dot(self, view: str) -> Floats:
        """A view's vector times the unit vector of each class name, for each proposal, float32 (N, C).

        Raises:
            ParameterError: the profile has no class names.
        """
        name = class_dot_name(self._known(view))
        if name not in self.names:
            raise ParameterError(
                f"{self.path}: expected products with class names, it has none; write names into embed_text.class_names, "
                "or take the rule out of rules.enabled"
            )
        column: Floats = self[name]
        return column

    def ks(self) -> list[int]:
        """The masked_blocks values of the global view, ascending."""
        return sorted(int(view.removeprefix("global.k")) for view in self.views if view.startswith("global.k"))

    def globals(self) -> list[tuple[str, str, int]]:
        """(label, masking, k) of every stored global view, by masking and k."""
        found = [re.fullmatch(r"global\.(?:(\w+)\.)?k(\d+)", view) for view in self.views]
        labels = [(match[0], match[1] or "token", int(match[2])) for match in found if match]
        return sorted(labels, key=lambda label: (label[1] != "token", label[1:]))

    def dots(self, view: str, other: str, score_rule: ScoreRule, texts: tuple[str, str] = (SENTENCE, PHRASE)) -> Dots:
        """What mixing two views and two texts takes, at any weights."""
        first, second = texts
        norms = [self.text_product(*two) for two in ((first, first), (second, second), (first, second))]
        return Dots(
            offsets=self["expression_offsets"],
            a=self.dot(view, first),
            b=self.dot(view, second),
            c=self.dot(other, first),
            d=self.dot(other, second),
            global_norm=self.view_product(view, view),
            cross_norm=self.view_product(view, other),
            local_norm=self.view_product(other, other),
            text_norms=np.stack(norms, 1),
            score_rule=score_rule,
        )

    def _known(self, view: str) -> str:
        if view in self.views:
            return view
        ks = self.ks()
        if view.startswith("global.k") and ks:
            raise MissingViewError(
                f"k = {view.removeprefix('global.k')}: {self.path} holds k = {', '.join(map(str, ks))}; add it to "
                f"embed_masks.masked_blocks"
            )
        raise MissingViewError(
            f"{self.path}: holds no view {view!r}; {nearest(view, self.views)}; add it to embed_masks.views"
        )


def load_pairs(path: Path, k: int) -> tuple[PairTable, dict[str, Any]]:
    """The pair table of file ``path`` for ``masked_blocks = k``, and its attributes with ``k`` and all stored ``ks``.

    Raises:
        ParameterError: k was not computed. StoreError: see ``store.table.read_table``.
    """
    columns = Columns(path)
    table = columns.read((*ROWS, *COLUMNS))
    dots = columns.dots(f"global.k{k}", LOCAL, table.attrs["score_rule"])
    offsets, proposal, state = dots.offsets, table["proposal"], np.array(table["expression_state"], np.str_)
    pairs = PairTable(
        dots=dots,
        groups=[(dataset, split) for dataset, split in table.attrs["groups"]],
        group=table["expression_group"],
        image=table["expression_image"],
        ref=table["expression_ref"],
        area=table["expression_area"],
        evaluated=np.isin(state, EVALUATED),
        state=state,
        truncated=table["expression_truncated"],
        intersection=table["intersection"],
        union=table["union"],
        proposal_score=table["proposal_score"][proposal],
        proposal_area=table["proposal_area"][proposal],
        kept=np.arange(len(proposal)) - np.repeat(offsets[:-1], np.diff(offsets)),
        columns=columns,
    )
    return pairs, {**table.attrs, "k": k, "ks": columns.ks()}


def with_view(
    pairs: PairTable, view: str, other: str = LOCAL, texts: tuple[str, str] = (SENTENCE, PHRASE)
) -> PairTable:
    """``pairs``, unfiltered, with two other stored views, and two texts, in the places of global, local, sentence, phrase.

    Raises:
        MissingViewError: the file does not hold the view.
    """
    if pairs.columns is None:
        raise ValueError("expected an unfiltered table, got one that a filter has cut")
    return replace(pairs, dots=pairs.columns.dots(view, other, pairs.dots.score_rule, texts))
