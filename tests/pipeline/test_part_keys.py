"""Which edits of the code, and which libraries, change the keys of which parts: all that computes, and nothing else."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib import metadata
from pathlib import Path

import pytest

from stages import embed_masks, embed_text, parse, propose
from stages.clip.config import backbone_named
from stages.proposals import from_freesolo
from store import fingerprint
from store.errors import CodeError
from store.fingerprint import BOOKKEEPING, PACKAGES, ROOT, library_versions, source_files

MODEL, WEIGHTS, SOLO = (
    ROOT / "demo/models" / name
    for name in ("refshapes_clip.json", "refshapes_clip.safetensors", "refshapes_freesolo.safetensors")
)
MASKS, ALL = {"local", "global.k3"}, {"local", "global.k3", "text", "parse", "proposals"}
NETWORKS = ALL - {"parse"}


def keys(work: Path) -> dict[str, str]:
    """Kind of part -> its config key."""
    nowhere = Path("nowhere")
    masks = embed_masks.open_parts(
        embed_masks.Params(model=str(MODEL)),
        embed_masks.Paths(index=nowhere, images=nowhere, proposals=nowhere, weights=WEIGHTS, mask_features=nowhere),
        work,
    )
    text = embed_text.key_of(
        embed_text.Params(model=str(MODEL)), embed_text.Paths(parse=nowhere, weights=WEIGHTS, text_features=nowhere)
    )
    found = from_freesolo.key_of(propose.Params().used(), fingerprint.file_digest(SOLO))
    parsed = parse.key_of(parse.Params(spacy_model="en_core_web_sm"))
    configs = {"text": text, "proposals": found, "parse": parsed}
    return {kind: parts.folder.name for kind, parts in masks.items()} | {
        kind: fingerprint.fingerprint(config) for kind, config in configs.items()
    }


class Copy:
    """A copy of the packages, whose keys follow its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for package in PACKAGES:
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))

    @cached_property
    def before(self) -> dict[str, str]:
        return self.keys()

    def keys(self) -> dict[str, str]:
        forget()
        return keys(self.root / "work")

    def changed(self, file: str, text: str) -> set[str]:
        """The kinds whose key is another one while ``file`` holds ``text``."""
        path = self.root / file
        kept = path.read_text()
        assert text != kept, "the edit changes the file"
        path.write_text(text)
        after = self.keys()
        path.write_text(kept)
        return {kind for kind in self.before if self.before[kind] != after[kind]}


def forget() -> None:
    fingerprint.import_closure.cache_clear()
    fingerprint.code_digest.cache_clear()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("copy")
        patch.setattr(fingerprint, "ROOT", root)
        made = Copy(root)
        yield made
        assert made.keys() == made.before, "every edit was taken back"
    forget()


CHANGING = [
    ("stages/visual/preprocess.py", r"IMAGENET_MEAN = \(0\.485", "IMAGENET_MEAN = (0.486", MASKS),
    ("stages/visual/preprocess.py", r"Resampling\.BILINEAR", "Resampling.BICUBIC", MASKS),
    ("stages/visual/masked_vit.py", r"tokens \* token_weights", "tokens + token_weights", MASKS),
    ("stages/views/local.py", r"degenerate_boxes\(boxes, image\.height", "degenerate_boxes(boxes, 1 + image.height", {"local"}),
    ("stages/views/global_.py", r"~kept", "kept", {"global.k3"}),
    ("stages/visual/compute.py", r"self\.encoder\.batch\)", "2)", MASKS),
    ("stages/visual/passes.py", r" \+ ", " - ", MASKS),
    ("stages/clip/backbone.py", r'score_rule="cosine"', 'score_rule="unnormalised"', {*MASKS, "text"}),
    ("stages/clip/state_dict.py", r'"model_state_dict", "model",', '"model", "model_state_dict",', NETWORKS),
    ("stages/clip/fitting.py", r"antialias=True", "antialias=False", {*MASKS, "text"}),
    ("stages/device/precision.py", r'"bf16": torch\.bfloat16', '"bf16": torch.float16', NETWORKS),
    ("stages/text/encoder.py", r"_ROWS = 120", "_ROWS = 60", {"text"}),
    ("stages/text/noun_phrase.py", r"token\.head\.i == token\.i\]\[-1\]", "token.head.i == token.i][0]", {"parse"}),
    ("stages/text/words.py", r'"leftmost"', '"left-most"', {"parse"}),
    ("stages/proposals/settings.py", r"STRIDES = \(8,", "STRIDES = (4,", {"proposals"}),
    ("stages/proposals/freesolo_units.py", r"proposals\.scores", "proposals.scores[::-1]", {"proposals"}),
    ("store/images.py", r'image\.convert\("RGB"\)', 'image.convert("L").convert("RGB")', {*MASKS, "proposals"}),
    ("store/images.py", r"except OSError as", "except ValueError as", {*MASKS, "proposals"}),
    ("store/segmentation.py", r"position % 2 == 1", "position % 2 == 0", {*MASKS, "proposals"}),
    ("store/ragged.py", r"int\(|np\.cumsum\(lengths", "np.cumsum(1 + lengths", {*MASKS, "proposals"}),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "kinds"), CHANGING)
def test_what_computes_counts(copy: Copy, file: str, old: str, new: str, kinds: set[str]) -> None:
    assert copy.changed(file, re.sub(old, new, (copy.root / file).read_text(), count=1)) == kinds


LOGGED = """
import logging
logger = logging.getLogger(__name__)


def _shown(values: object) -> str:
    return f"values {values}"

"""
WORDS = [
    ("a comment", "stages/visual/masked_vit.py", r"\n(    def )", r"\n    # a word\n\1"),
    ("a docstring", "stages/visual/masked_vit.py", r'"""', '"""Another word. '),
    ("layout", "stages/text/words.py", r'"left": \(', '"left": \\\n        ('),
    ("an annotation", "stages/visual/preprocess.py", r"\) -> Tensor:", ") -> object:"),
    ("a message", "stages/visual/masked_vit.py", r"expected one of", "expected any of"),
    ("a message's constant", "store/images.py", r"put the right file there", "put the file there"),
    ("a message's values", "stages/visual/masked_vit.py", r"got \{masking!r\}\"", 'got {masking!s} ({type(masking)})"'),
    ("a message's argument", "store/images.py", r"an 8-bit PNG or JPEG", "an 8-bit PNG"),
    ("a description", "stages/embed_masks.py", r'description="', 'description="Another word. '),
    ("a record's meaning", "stages/views/local.py", r'meaning="', 'meaning="another word '),
    ("a record's cost", "stages/views/local.py", r'cost="', 'cost="another word '),
    ("a log line", "stages/visual/masked_vit.py", r"(\n\n\nclass )(?s:(.*?))(        depth = len)",
     rf"{LOGGED}\1\2        logger.debug(_shown(pixels))\n\3"),
    ("a print", "stages/text/noun_phrase.py", r"(    cleaned = )", r'    print("parsing", len(sentences))\n\1'),
    ("a field of Summary", "stages/contract.py", r"(    skipped: list\[str\])", r"    lost: int = 0\n\1"),
    ("bookkeeping", "store/work.py", r"_OPEN_PARTS = 4", "_OPEN_PARTS = 8"),
    ("bookkeeping", "store/units.py", r'"write parts"', '"write"'),
    ("tables", "store/table.py", r"_CHUNK = 1 << 18", "_CHUNK = 1 << 17"),
    ("publishing", "store/publish.py", r"hex\[:8\]", "hex[:12]"),
    ("workers", "pipeline/workers.py", r"_RETRIES = 3", "_RETRIES = 5"),
    ("another stage", "stages/score.py", r"\n    return ", "\n    return not "),
]  # fmt: skip


@pytest.mark.parametrize(("what", "file", "old", "new"), WORDS)
def test_words_and_bookkeeping_do_not_count(copy: Copy, what: str, file: str, old: str, new: str) -> None:
    assert copy.changed(file, re.sub(old, new, (copy.root / file).read_text(), count=1)) == set(), what


def test_every_file_counts_where_it_computes(copy: Copy) -> None:
    """One more constant in a file changes the keys of the kinds that import it, and no others."""
    backbone = backbone_named(str(MODEL))
    shared = ["stages.visual.compute", *backbone.modules("visual"), backbone.module]
    computing = {
        "local": [*shared, "stages.views.local"],
        "global.k3": [*shared, "stages.views.global_"],
        "text": ["stages.text.compute", *backbone.modules("text"), backbone.module],
        "parse": ["stages.text.parsing"],
        "proposals": ["stages.proposals.freesolo_units"],
    }
    imported = {kind: set(source_files(*names, without=BOOKKEEPING).values()) for kind, names in computing.items()}
    files = sorted(set.union(*imported.values()))
    assert len(files) > 25
    for path in files:
        expected = {kind for kind in ALL if path in imported[kind]}
        file = path.relative_to(copy.root).as_posix()
        assert copy.changed(file, f"{path.read_text()}\n\nCHANGED = 1\n") == expected, file


class Rewording(ast.NodeTransformer):
    """Another word in every docstring and every message of an error that is raised."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value += " Another word."
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [ast.Constant("another word"), *node.exc.args]
        return node


def test_no_words_of_any_file_count(copy: Copy) -> None:
    before, kept = copy.before, {path: path.read_bytes() for path in copy.root.rglob("*.py")}
    for path, text in kept.items():
        tree = Rewording().visit(ast.parse(text))
        path.write_text("# a comment\n" + ast.unparse(ast.fix_missing_locations(tree)))
    after = copy.keys()
    for path, text in kept.items():
        path.write_bytes(text)
    assert after == before


@pytest.mark.parametrize(
    ("library", "kinds"),
    [
        ("torch", NETWORKS),
        ("open_clip_torch", {*MASKS, "text"}),
        ("pillow", {*MASKS, "proposals"}),
        ("numpy", NETWORKS),
        ("ftfy", {"text"}),
        ("spacy", {"parse"}),
        ("numba", {"proposals"}),
        ("h5py", set()),
        ("dask", set()),
    ],
)
def test_the_libraries_that_compute_count(
    library: str, kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, version = keys(tmp_path), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == library else version(name))
    after = keys(tmp_path)
    assert {kind for kind in before if before[kind] != after[kind]} == kinds


def test_a_library_or_module_that_is_not_there() -> None:
    with pytest.raises(CodeError, match=r"no-such-library.*pip install no-such-library"):
        library_versions("numpy", "no-such-library")
    with pytest.raises(CodeError, match=r"module stages\.nothing: .*no source file"):
        fingerprint.code_digest("stages.parse", "stages.nothing")


def test_several_modules_and_one_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a view has its own file beside what all views share, also one outside the package."""
    together = fingerprint.code_digest("stages.text.words", "stages.text.prefixes")
    assert together not in map(fingerprint.code_digest, ("stages.text.words", "stages.text.prefixes"))
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for text in (
        "from stages.text.words import classes\nSIZE = 1\n",
        "from stages.text.words import classes\nSIZE = 2\n",
    ):
        (tmp_path / "own_view.py").write_text(text)
        __import__("own_view")
        assert "stages.text.words" in source_files("own_view")
        digests.append(fingerprint.code_digest("own_view"))
        forget()
    assert digests[0] != digests[1]


def test_a_process_on_edited_files_has_the_other_keys(tmp_path: Path) -> None:
    """The same as above for real: what `glimpse run parse` would use, before and after an edit."""
    copied = Copy(tmp_path)
    asked = "key_of(Params(spacy_model='en_core_web_sm'))"
    code = f"import json; from stages.parse import Params, key_of; print(json.dumps({asked}))"

    def key() -> dict[str, object]:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
                              capture_output=True, text=True, check=True)  # fmt: skip
        found: dict[str, object] = json.loads(done.stdout)
        return found

    before, path = key(), copied.root / "stages/text/words.py"
    assert before == json.loads(json.dumps(parse.key_of(parse.Params(spacy_model="en_core_web_sm"))))
    path.write_text(path.read_text().replace('"leftmost"', '"left-most"'))
    after = key()
    assert {name for name in before if before[name] != after[name]} == {"code"}
