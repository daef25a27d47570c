"""Search for the weights and parameters of a rule on some splits, and what they are worth on the others.

mIoU over alpha, weights or thresholds has steps and many local maxima, so the search is differential evolution (Storn and
Price, 1997; scipy's): no gradients, the same result for the same seed. What was searched on is no evidence, so it is never
reported: other splits are, and of these only the expressions whose images were not searched on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from stages.contract import Listed, Params
from stages.scoring.comparison import Both, compared
from stages.scoring.metrics import Outcome, summarise
from stages.scoring.rules.known import RULES
from stages.scoring.rules.registry import Rule, checked
from stages.scoring.table import PairTable, Scoring
from store.errors import ParameterError, nearest

POINT = ("alpha", "beta")
"""What of section score can be varied."""
_CANDIDATES = 8
_CELLS = "weights"
Range = tuple[float, float]


class Search(Params):
    """A search: what is varied, where it is judged."""

    rule: str = Field("global_local", description="the rule whose parameters are searched")
    splits: Listed[str] = Field(min_length=1, description="<data set>/<split>, or several, to search on")
    vary: dict[str, Range] = Field(
        {},
        description="name -> least and greatest value: alpha, beta, a setting of the rule, or weights.<view>*<text>; "
        "by default alpha and beta",
    )
    measure: Literal["miou", "oiou", "p50"] = Field("miou", description="what is searched for, the mean over splits")
    evaluations: Annotated[int, Field(ge=5, le=100_000)] = Field(200, description="at most so many points are tried")
    seed: int = Field(0, ge=0, description="of the search")

    @field_validator("rule")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return RULES.checked(name)

    @model_validator(mode="after")
    def _has_ranges(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if not np.isfinite([low, high]).all() or low >= high:
                raise ValueError(
                    f"vary.{name}: expected two numbers, the first below the second, got {low:g} and {high:g}"
                )
            if name in POINT and not 0 <= low < high <= 1:
                raise ValueError(f"vary.{name}: expected a range within 0 to 1, got {low:g} to {high:g}")
        return self

    @property
    def ranges(self) -> dict[str, Range]:
        return self.vary or dict.fromkeys(POINT, (0.0, 1.0))


@dataclass(frozen=True)
class Judged:
    """A rule at one point of a search.

    Attributes:
        scoring: section score with the point's alpha and beta. settings: the rule's own, of its type.
    """

    rule: Rule
    scoring: Scoring
    settings: Params

    def outcome(self, pairs: PairTable) -> Outcome:
        """What it chooses, of every expression of ``pairs`` (unfiltered, with ``columns``)."""
        scores = self.rule.scores(pairs, self.scoring, self.settings)
        if (bad := int(np.isnan(scores).sum())) > 0:
            raise ParameterError(
                f"rule {self.rule.name}: expected a number for every pair, got none for {bad}; narrow the range searched"
            )
        return pairs.outcome(pairs.choice(scores, self.scoring))


def judged(search: Search, values: Mapping[str, float], scoring: Scoring, settings: Mapping[str, Any]) -> Judged:
    """The rule of ``search`` with ``values`` of what is varied; all else as the profile says.

    Args:
        scoring: the profile's section score. settings: the profile's own settings of the rule.

    Raises:
        ParameterError: a name that neither section score nor the rule has, a value that the rule refuses.
    """
    rule, point, own = RULES[search.rule], {n: v for n, v in values.items() if n in POINT}, dict(settings)
    weights = {name.removeprefix(f"{_CELLS}."): v for name, v in values.items() if name.startswith(f"{_CELLS}.")}
    if weights:
        own[_CELLS] = own.get(_CELLS, {}) | weights
    for name, value in values.items():
        if name in POINT or name.startswith(f"{_CELLS}."):
            continue
        field = rule.settings.model_fields.get(name)
        if field is None or field.annotation not in (int, float):
            fields = rule.settings.model_fields
            numbers = [other for other, kind in fields.items() if kind.annotation in (int, float)]
            known = [*POINT, *numbers, *([f"{_CELLS}.<view>*<text>"] if _CELLS in fields else [])]
            raise ParameterError(f"vary.{name}: rule {rule.name} has no such number; {nearest(name, known)}")
        own[name] = round(value) if field.annotation is int else value
    values_of = {name: getattr(scoring, name) for name in Scoring.model_fields} | point
    if "alpha" in point:
        values_of |= {"alpha_by_dataset": {}, "alpha_by_encoder": {}}
    return Judged(rule, Scoring.model_validate(values_of), checked(rule.settings, own, rule.name))


def tuned(
    search: Search, pairs: PairTable, scoring: Scoring, settings: Mapping[str, Any], resamples: int, seed: int
) -> dict[str, Any]:
    """The best point found on ``search.splits``, how the search got there, and its worth on all other splits.

    Args:
        pairs: unfiltered, with ``columns``. scoring, settings: the profile's, where the search starts.
        resamples, seed: of the paired bootstrap over images.

    Returns:
        ``rule``, ``on`` (the splits searched on), ``measure``, ``ranges``; ``found``: name -> value; ``tried``: number of
        points; ``start`` and ``best``: the measure on these splits; ``path``: [{``tried``, ``value``}] at each improvement;
        ``splits``: for every other split what `stages.scoring.comparison.compared` says of the tuned rule (A) and the
        profile's (B), with ``searched``, the expressions left out because their image was searched on.

    Raises:
        ParameterError: an unknown split, one without an expression that is evaluated, or as of ``judged``.
    """
    rows = [_members(pairs, name) for name in search.splits]
    before = Judged(RULES[search.rule], scoring, checked(RULES[search.rule].settings, dict(settings), search.rule))
    ranges = search.ranges

    def value_of(at: Judged) -> float:
        outcome = at.outcome(pairs)
        return float(np.mean([summarise(outcome.at(own), scoring.empty)[search.measure] or 0.0 for own in rows]))

    for end in (0, 1):
        judged(
            search, {name: bounds[end] for name, bounds in ranges.items()}, scoring, settings
        )  # before the long work
    walk = _Walk(lambda point: value_of(judged(search, _named(ranges, point), scoring, settings)))
    start = value_of(before)
    _evolve(walk, list(ranges.values()), search)
    found = _rounded(_named(ranges, walk.best_point), search.rule)
    after = judged(search, found, scoring, settings)
    return {
        "rule": search.rule,
        "on": search.splits,
        "measure": search.measure,
        "ranges": {name: list(bounds) for name, bounds in ranges.items()},
        "found": found,
        "tried": walk.tried,
        "start": start,
        "best": value_of(after),
        "path": walk.path,
        "splits": _worth(pairs, after.outcome(pairs), before.outcome(pairs), search.splits, scoring, resamples, seed),
    }


class _Walk:
    """The function that is searched, with a memory: values by point, the best so far, when it was found."""

    def __init__(self, value_of: Callable[[NDArray[np.float64]], float]) -> None:
        self._value_of = value_of
        self.tried, self.path = 0, list[dict[str, float]]()
        self.best_point, self._best = np.zeros(0), -np.inf

    def __call__(self, point: NDArray[np.float64]) -> float:
        self.tried += 1
        value = self._value_of(point)
        if value > self._best:
            self._best, self.best_point = value, np.array(point)
            self.path.append({"tried": self.tried, "value": value})
        return -value


def _evolve(walk: _Walk, bounds: Sequence[Range], search: Search) -> None:
    """Differential evolution within the number of evaluations."""
    from scipy.optimize import differential_evolution

    size = min(_CANDIDATES * len(bounds), search.evaluations)
    generations = max(0, search.evaluations // size - 1)
    differential_evolution(
        walk,
        list(bounds),
        init=_first(bounds, size, search.seed),
        maxiter=generations,
        tol=0,
        polish=False,
        rng=np.random.default_rng(search.seed),
    )


def _first(bounds: Sequence[Range], size: int, seed: int) -> NDArray[np.float64]:
    """The first points, spread evenly (a scrambled Sobol sequence), (size, D)."""
    from scipy.stats import qmc

    low, high = np.array(bounds, np.float64).T
    sampler = qmc.Sobol(len(bounds), rng=np.random.default_rng(seed))
    power = int(np.ceil(np.log2(size)))
    return np.asarray(qmc.scale(sampler.random_base2(power)[:size], low, high))


def _named(ranges: Mapping[str, Range], point: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(ranges, point.tolist(), strict=True))


def _rounded(values: Mapping[str, float], rule: str) -> dict[str, float]:
    """The values to four digits, as they go into a params file."""
    fields = RULES[rule].settings.model_fields
    return {
        name: round(value) if name in fields and fields[name].annotation is int else float(f"{value:.4g}")
        for name, value in values.items()
    }


def _members(pairs: PairTable, name: str) -> NDArray[np.int64]:
    """The evaluated expressions of ``<data set>/<split>``."""
    names = ["/".join(group) for group in pairs.groups]
    if name not in names:
        raise ParameterError(f"tune: no split {name!r}; {nearest(name, names)}")
    members = pairs.members(names.index(name))
    if not len(members):
        raise ParameterError(f"tune: {name} has no expression that is evaluated; search on another split")
    return members


def _worth(
    pairs: PairTable, after: Outcome, before: Outcome, on: Sequence[str], scoring: Scoring, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """What ``compared`` says for every split that was not searched on, on images that were not."""
    searched = np.unique(np.concatenate([pairs.image[_members(pairs, name)] for name in on]))
    lines = []
    for group, (dataset, split) in enumerate(pairs.groups):
        members = pairs.members(group)
        if f"{dataset}/{split}" in on or not len(members):
            continue
        apart = members[~np.isin(pairs.image[members], searched)]
        both = Both(after.at(apart), before.at(apart), pairs.image[apart]).counted(scoring.empty)
        line = {"dataset": dataset, "split": split, "searched": len(members) - len(apart)}
        lines.append(line | compared(both, resamples, seed))
    return lines
