"""Clean sentences, noun phrases and token ids against the release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from open_clip.tokenizer import SimpleTokenizer

from pipeline.golden.check import Check, check
from pipeline.golden.folder import Absent, Folder
from stages.text.noun_phrase import target_noun_phrase

if TYPE_CHECKING:
    from spacy.language import Language

END = 49407  # of CLIP's vocabulary


def check_texts(folder: Folder, nlp: Language) -> Iterator[Check]:
    """Rows that differ of each quantity; then what we define on the rows where the release raises."""
    try:
        rows = folder.rows("text.json", "expressions")
    except Absent as lost:
        yield Check("text", "all", None, note=str(lost))
        return
    tokenizer = SimpleTokenizer()

    def ids(text: str) -> list[int]:
        row: list[int] = tokenizer([text])[0].tolist()
        return row[: row.index(END) + 1]

    ours = [target_noun_phrase(nlp, row["raw"]) for row in rows]
    for quantity, got, key in (
        ("clean sentences", [sentence for sentence, _ in ours], "sentence_for_spacy"),
        ("noun phrases", [phrase for _, phrase in ours], "noun_phrase"),
        ("token ids of sentences", [ids(sentence) for sentence, _ in ours], "token_ids_sentence"),
        ("token ids of noun phrases", [ids(phrase) for _, phrase in ours], "token_ids_noun"),
    ):

        def measure(got: list[Any] = got, key: str = key) -> tuple[int, str]:
            wrong = [row["index"] for row, value in zip(rows, got, strict=True) if key in row and row[key] != value]
            lost = [row["index"] for row in rows if row["status"] == "ok" and key not in row]
            count = sum(key in row for row in rows)
            named = f"; rows that differ: {wrong}" if wrong else ""
            named += f"; rows without it: {lost}" if lost else ""
            return len(wrong) + len(lost), f"{count} rows{named}"

        yield check("text", quantity, 0, measure)
    for row, (sentence, phrase) in zip(rows, ours, strict=True):
        if row["status"] != "ok":
            yield _defined(row, phrase, len(ids(sentence)))


def _defined(row: dict[str, Any], phrase: str, length: int) -> Check:
    """The release raises: a blank sentence has the phrase it is, a long one is cut to 77 ids, both are encoded."""
    sentence = row["sentence_for_spacy"]
    right = (phrase == sentence or phrase == row.get("noun_phrase")) and 2 <= length <= 77
    ours = f"{len(sentence.split())} words -> {length} token ids, phrase of {len(phrase.split())} words"
    raised = f"release: {row['error'].partition(':')[0]} in {row['error_stage']}"
    return Check("text", f"row {row['index']}, defined", float(not right), 0.0, f"{raised}; ours: {ours}")
