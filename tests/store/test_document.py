"""Documents: what is written comes back, or an error says so; edited, flipped in every byte, of another stage."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arguments import checked
from stages import index
from store.document import content_of, read_document, read_record, write_document
from store.errors import ParameterError, StoreError
from tests.helpers.store_files import survivors

CONTENT = {
    "refcoco": {"val": {"oiou": 0.1 + 0.2, "n": 3, "miou": None, "name": "é\ud800", "ci": [1, 2.5e-300]}},
    "b": {},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def test_a_document_comes_back_and_its_digest_stands_last(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.json"
    write_document(path, CONTENT, "score", {"date": "2026"})
    document = read_document(path, "score")
    assert content_of(document) == CONTENT
    assert list(document) == [*CONTENT, "run"]
    assert list(document["run"]) == ["date", "producer", "digest"]
    digest = document["run"].pop("digest")
    rest = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert digest == hashlib.sha256(rest.encode()).hexdigest()
    assert json.loads(path.read_text())["run"]["digest"] == digest
    write_document(path, CONTENT, "score", indent=None)
    assert path.read_text().count("\n") == 1


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key != "run"), JSON, max_size=5))
def test_any_content_comes_back(content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_document(Path(folder) / "d.json", content, "sweep")
        assert content_of(read_document(Path(folder) / "d.json", "sweep")) == content


def test_flipped_bytes_of_a_document(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_document(path, CONTENT, "score")
    assert not survivors(path, 1, path, lambda: read_document(path, "score"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"n": 3', '"n": 4'), "is damaged or was edited"),
        (lambda text: text.replace("0.30000000000000004", "0.3"), "is damaged or was edited"),
        (lambda text: text.replace('"producer": "score"', '"producer": "sweep"'), "is damaged or was edited"),
        (lambda text: text.replace('"digest": "', '"digest": "0'), "is damaged or was edited"),
        (lambda text: text.replace('"b": {}', '"b": {}, "c": {}'), "is damaged or was edited"),
        (lambda text: text.replace('"run"', '"ran"'), "expected a JSON document with a digest"),
        (lambda text: json.dumps(CONTENT), "expected a JSON document with a digest"),
        (lambda text: json.dumps(CONTENT | {"run": {}}), "expected a JSON document with a digest"),
        (lambda text: json.dumps(CONTENT | {"run": "x"}), "expected a JSON document with a digest"),
        (lambda text: "[1]", "expected a JSON document with a digest"),
        (lambda text: text[:-9], "cannot be read"),
        (lambda text: "", "cannot be read"),
        (lambda text: text.replace('"n": 3', '"n": NaN'), "cannot be read"),
        (lambda text: text.replace('"n": 3', f'"n": {"9" * 5000}'), "cannot be read"),
        (lambda text: "[" * 100_000, "cannot be read"),
        (lambda text: text.encode("utf-16"), "cannot be read"),
    ],
)
def test_another_document_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "a folder" / "m.json"
    write_document(path, CONTENT, "score")
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(StoreError, match=rf"m\.json: .*{said}.*; make it again: glimpse repair '{path}'$"):
        read_document(path, "score")


def test_layout_and_order_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_document(path, CONTENT, "score")
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items())), indent=4))
    assert read_document(path, "score") == document


def test_no_file_and_another_stages_document(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"m\.json: expected a file .*, found none; .* glimpse repair .*m\.json$"):
        read_document(tmp_path / "m.json", "score")
    write_document(tmp_path / "grid.json", {}, "sweep")
    with pytest.raises(StoreError, match=r"grid\.json: expected a document of stage score, found one of sweep; "):
        read_document(tmp_path / "grid.json", "score")
    with pytest.raises(StoreError, match="cannot be read"):
        read_document(tmp_path, "score")


def test_a_record_is_to_be_removed(tmp_path: Path) -> None:
    write_document(tmp_path / "pair.json", {"stage": "pair"}, "pair")
    assert read_record(tmp_path / "pair.json")["stage"] == "pair"
    (tmp_path / "pair.json").write_text("{}")
    with pytest.raises(StoreError, match=r"pair\.json: .*; remove it: it only says what the last run"):
        read_record(tmp_path / "pair.json")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"m\.json: 'run' is a reserved name"):
        write_document(tmp_path / "m.json", {"run": {}}, "score")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_document(tmp_path / "m.json", {"a": float("nan")}, "score")
    assert not list(tmp_path.iterdir())


def test_no_data_set_may_be_called_run() -> None:
    """Said before the first stage, not by the one that writes the metrics."""
    choice = {"split_by": "unc", "splits": ["val"]}
    assert checked(index.Params, {"datasets": {"runs": choice}}, "params.yaml")
    with pytest.raises(ParameterError, match="'run' stands for the run itself"):
        checked(index.Params, {"datasets": {"run": choice}}, "params.yaml")
