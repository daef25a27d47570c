"""Numbers that papers report, as data: printed next to ours with a mark of certainty, and never asserted on.

Splits are named as by ``stages.datasets.choice.published_split``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stages.datasets.registry import Split

Mark = Literal["verified", "partly", "recalled"]
METRICS = ("oiou", "miou")
MARKS: dict[Mark, str] = {
    "verified": "a later paper prints the same number",
    "partly": "a later paper prints it to one decimal, the second is from memory",
    "recalled": "from memory, held against no printed table",
}
SPLITS: tuple[Split, ...] = (
    *(("refcoco", "unc", split) for split in ("val", "testA", "testB")),
    *(("refcoco+", "unc", split) for split in ("val", "testA", "testB")),
    ("refcocog", "umd", "val"),
    ("refcocog", "umd", "test"),
    ("refcocog", "google", "val"),
)
"""In the order of the papers' tables, and of the strings below."""
PHRASECUT: Split = ("phrasecut", "all", "test")
ENCODERS = {
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
}
"""The encoders that the paper reports, by their standard names -> sha256 of OpenAI's weights file."""


@dataclass(frozen=True)
class Number:
    """A number of percent with the decimals it was reported with."""

    text: str
    mark: Mark

    @property
    def value(self) -> float:
        return float(self.text)


@dataclass(frozen=True)
class Row:
    """A line of a paper's table.

    Attributes:
        encoder: a value of ``ENCODERS``, or "" where none takes part, another one does, or it is not stated.
        rule: our rule that it corresponds to, None for a system that is not among ours.
        numbers: metric (oiou, miou) -> split -> number; a split that the paper leaves out is absent.
    """

    label: str
    encoder: str
    rule: str | None
    numbers: Mapping[str, Mapping[Split, Number]]

    def at(self, split: Split) -> dict[str, Number]:
        """The numbers of one split by metric; {} for none."""
        return {metric: self.numbers[metric][split] for metric in METRICS if split in self.numbers[metric]}


def _numbers(text: str, mark: Mark) -> dict[Split, Number]:
    """Numbers in the order of ``SPLITS``; "-" is absent, a "?" after a number means recalled whatever ``mark`` says."""
    words = text.replace("/", " ").split()
    return {
        split: Number(word.rstrip("?"), "recalled" if word.endswith("?") else mark)
        for split, word in zip(SPLITS, words or ["-"] * len(SPLITS), strict=True)
        if word != "-"
    }


def _row(
    label: str,
    encoder: str,
    rule: str | None,
    oiou: str,
    miou: str,
    marks: tuple[Mark, Mark] = ("recalled", "recalled"),
) -> Row:
    return Row(label, encoder, rule, {"oiou": _numbers(oiou, marks[0]), "miou": _numbers(miou, marks[1])})


ROWS = (
    _row(
        "Global-local",
        "ViT-B/32",
        "global_local",
        "24.88 23.61 24.66 / 26.16 24.90 25.83 / 31.11 30.96 30.69?",
        "26.20 24.94 26.56 / 27.80 25.64 27.84 / 33.52 33.67 33.61",
        ("partly", "verified"),
    ),
    _row(
        "Global-local",
        "RN50",
        "global_local",
        "24.58 23.38 24.35 / 25.87 24.61 25.61 / 30.07 29.83 29.45",
        "26.70 24.99 26.48 / 28.22 26.54 27.86 / 33.02 33.12 32.79",
    ),
    Row(
        "Global-local, encoder not stated",
        "",
        "global_local",
        {"oiou": {PHRASECUT: Number("23.64", "verified")}, "miou": {}},
    ),
    _row(
        "Cropping",
        "ViT-B/32",
        "cropping",
        "22.73 21.11 23.08 / 24.09 22.42 23.93 / 28.69 27.51 27.70",
        "24.83 22.58 25.72 / 26.33 24.06 26.46 / 31.88 30.94 31.06",
    ),
    _row(
        "Cropping",
        "RN50",
        "cropping",
        "22.36 20.49 22.69 / 23.95 22.03 23.49 / 28.20 27.64 27.47",
        "24.31 22.37 24.66 / 26.31 23.94 25.69 / 31.27 30.87 30.78",
    ),
    _row(
        "Upper bound of FreeSOLO's masks",
        "",
        "upper_bound",
        "42.08 42.52 43.52 / 42.17 42.52 43.80 / 48.81 48.96 48.49",
        "48.25 46.62 50.43 / 48.28 46.62 50.62 / 52.44 52.91 52.76",
    ),
    _row(
        "Region token",
        "ViT-B/32",
        "region_token",
        "21.71 20.31 22.63 / 22.61 20.91 23.46 / 25.52 25.38 25.29",
        "23.43 22.07 24.62 / 24.51 22.64 25.37 / 27.57 27.34 27.69",
    ),
    _row(
        "Score map",
        "RN50",
        "score_map",
        "19.87 19.31 20.22 / 20.37 19.65 20.75 / 18.88 19.16 19.15",
        "21.32 20.96 21.57 / 21.61 21.17 22.30 / 20.07 20.43 20.63",
    ),
    _row(
        "Grad-CAM",
        "RN50",
        "grad_cam",
        "14.02 15.07 13.49 / 14.43 14.97 14.04 / 12.51 12.81 12.86",
        "14.22 15.93 13.18 / 14.80 15.87 13.78 / 12.47 13.16 13.30",
    ),
    _row(
        "TSEG, trained on expressions without masks",
        "",
        None,
        "",
        "25.95 - - / 22.62 - - / - - 23.41",
    ),
    _row(
        "CaR, its own masks",
        "",
        None,
        "",
        "33.57 35.36 30.51 / 34.22 36.03 31.02 / 36.67 36.57 36.63",
    ),
    _row("TAS, SAM's masks", "", None, "29.5 30.3 28.2 / 33.2 38.8 28.0 / 35.8 36.2 -", "", ("verified", "verified")),
    _row(
        "HybridGL, SAM's masks",
        "",
        None,
        "",
        "49.48 53.37 45.19 / 43.40 49.13 37.17 / 51.25 51.59 -",
        ("verified", "verified"),
    ),
)
"""Yu, Seo and Son, CVPR 2023, on FreeSOLO's masks; at the end later systems."""
