"""Everything that ``glimpse fetch`` can get: what it is, where it comes from, how large it is, its licence, its digest,
and where a profile wants it. A table only: nothing here opens a connection.

No file was downloaded when this table was written (the machine had no network). Each digest is one that its publisher or
several public projects record, as ``digest_from`` says; "" means that none is known for certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pipeline.project import LoadedProject, with_params
from stages.datasets.registry import KINDS
from stages.proposals.registry import SOURCES as PROPOSAL_SOURCES
from store.errors import DataError, ParameterError, nearest

Kind = Literal["weights", "data"]
Place = Literal["proposal weights", "CLIP weights", "annotations", "COCO images", "PhraseCut images"]


@dataclass(frozen=True, slots=True)
class Archive:
    """How a zip file is unpacked into its item's folder, and how its completeness is checked.

    Attributes:
        strip: top folders of the zip that are left away.
        holds: the files that the folder must have; or
        pattern, count: the number of files of this form that it must have; or
        listed: an annotation file whose images (of the splits that Glimpse scores) are unpacked, and no others.
        picked: nothing but ``holds`` is unpacked, from whatever folder of the zip it lies in.
        aliases: (another name, the name in ``holds``) under which a file may lie in the zip or in the user's folder.
    """

    strip: tuple[str, ...]
    holds: tuple[str, ...] = ()
    pattern: str = "*.jpg"
    count: int = 0
    listed: str = ""
    picked: bool = False
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One file to download.

    Attributes:
        name: its published name, under which it is stored.
        host: the kind of address, for messages.
        size: bytes, 0 where nobody states it; ``about`` says that it is rounded.
        digest: sha256 hex, or "" where none is known for certain; ``digest_from`` says who records it.
        place, folder: where it goes, see ``destination``.
        archive: how to unpack it; None for a file that is used as it is.
        other_names: names under which people have it.
    """

    name: str
    url: str
    host: str
    size: int
    place: Place
    folder: str = ""
    about: bool = False
    digest: str = ""
    digest_from: str = ""
    archive: Archive | None = None
    other_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One name of the command line. ``accept``: its licence restricts use, so the user must accept it.

    ``package`` is (name, version) of a Python package that is installed from the fetched wheel. ``images`` is the source
    of the images that these annotations name, ``dataset`` their kind; ``image_names`` what its own images are called below
    the image root, as a pattern.
    """

    kind: Kind
    name: str
    what: str
    licence: str
    items: tuple[Item, ...]
    accept: bool = False
    package: tuple[str, str] | None = None
    images: str = ""
    dataset: str = ""
    image_names: str = ""
    note: str = ""


_OPENAI = "OpenAI's model store"
_WAYBACK = "web.archive.org snapshot of 2022-04-13"
_DRIVE = "the PhraseCut authors' Google Drive"
_GENOME_LIST = "image_data_split3000.json"
_RECORDS = "at least three public projects that fetched this snapshot"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_UNC = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"


def _clip(key: str, name: str, digest: str, size: int) -> Source:
    item = Item(
        name=f"{name}.pt",
        url=f"{_CLIP}/{digest}/{name}.pt",
        host=_OPENAI,
        size=size,
        place="CLIP weights",
        digest=digest,
        digest_from="its own address, as OpenAI's code and open_clip check it",
    )
    return Source("weights", key, f"OpenAI's CLIP {name}", licence="MIT (OpenAI)", items=(item,))


def _refer(name: str, stamp: str, size: int, digest: str, split_by: Sequence[str]) -> Source:
    item = Item(
        name=f"{name}.zip",
        url=f"https://web.archive.org/web/{stamp}id_/{_UNC}/{name}.zip",
        host=_WAYBACK,
        size=size,
        place="annotations",
        folder=name,
        digest=digest,
        digest_from=_RECORDS,
        archive=Archive((name,), holds=("instances.json", *(f"refs({by}).p" for by in split_by))),
    )
    licence = "none is stated with the file that we know of; COCO's own annotations are under CC BY 4.0"
    what = f"annotations of {name} in the REFER layout"
    return Source("data", name, what, licence=licence, items=(item,), images="coco-train2014", dataset="refer")


def _genome_images(name: str, size: int) -> Item:
    return Item(
        name=name,
        url=f"https://cs.stanford.edu/people/rak248/VG_100K_2/{name}",
        host="Visual Genome's host at Stanford",
        size=size,
        about=True,
        place="PhraseCut images",
        archive=Archive(("VG_100K", "VG_100K_2", "images"), listed=_GENOME_LIST),
    )


SOURCES: tuple[Source, ...] = (
    _clip("clip", "ViT-B-32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 353_976_522),
    _clip("clip-rn50", "RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", 255_827_503),
    Source(
        "weights",
        "freesolo",
        what="FreeSOLO's R101 network (the paper's mask proposals)",
        licence="NVIDIA Source Code License (https://github.com/NVlabs/FreeSOLO/blob/main/LICENSE): for research or "
        "evaluation only, non-commercially",
        accept=True,
        items=(
            Item(
                name="FreeSOLO_R101_30k_pl.pth",
                url="https://huggingface.co/xinlongwang/FreeSOLO/resolve/6c4c8595c86618c458f89e3ae0e66b4cf794bdff/"
                "FreeSOLO_R101_30k_pl.pth",
                host="the author's Hugging Face repository",
                size=526_827_156,
                place="proposal weights",
                digest="434184b432dc8faaedd552b2f456ad7b4e0e154b65d4d0e92e5bc7c24112d348",
                digest_from="the author's upload itself (commit 6c4c859 of that repository)",
            ),
        ),
    ),
    Source(
        "weights",
        "spacy",
        what="spaCy's en_core_web_lg 3.8.0 (the paper's parser)",
        licence="MIT (Explosion)",
        package=("en_core_web_lg", "3.8.0"),
        items=(
            Item(
                name="en_core_web_lg-3.8.0-py3-none-any.whl",
                url="https://github.com/explosion/spacy-models/releases/download/en_core_web_lg-3.8.0/"
                "en_core_web_lg-3.8.0-py3-none-any.whl",
                host="spaCy's releases on GitHub",
                size=400_658_291,
                place="CLIP weights",
                digest="293e9547a655b25499198ab15a525b05b9407a75f10255e405e8c3854329ab63",
                digest_from="several public projects that pin this wheel",
            ),
        ),
    ),
    _refer(
        "refcoco",
        "20220413011718",
        53_993_993,
        "7f924bb7ed8dc4568058e4ff626281918d56e5206f4c868c5a80f088f38c8bf0",
        ("unc", "google"),
    ),
    _refer(
        "refcoco+",
        "20220413011656",
        45_613_210,
        "5f1238112d63199e68da54a28f201471909b21ded7ed79a57d51b4c1443c6b45",
        ("unc",),
    ),
    _refer(
        "refcocog",
        "20220413012904",
        56_712_951,
        "3d1f7e5b2ff2205940bf59de55f861f5f2cc1403fb980669933a7f9af1aa8211",
        ("umd", "google"),
    ),
    Source(
        "data",
        "phrasecut",
        what="PhraseCut's annotations of val and test, and their Visual Genome images",
        licence="none is stated with the annotations that we know of; Visual Genome: CC BY 4.0",
        images="phrasecut",
        dataset="phrasecut",
        image_names="phrasecut/*",
        items=(
            Item(
                name="VGPhraseCut_v0.zip",
                url="https://drive.usercontent.google.com/download?id=1SGVzPWkNaBOSbrlGGgsNTG4uGonQhE2U&export=download"
                "&confirm=t",
                host=_DRIVE,
                size=0,
                about=True,
                place="annotations",
                folder="phrasecut",
                archive=Archive(
                    ("VGPhraseCut_v0",),
                    holds=(_GENOME_LIST, "refer_val.json", "refer_test.json"),
                    picked=True,
                    aliases=(("image_data_split.json", _GENOME_LIST),),
                ),
            ),
            _genome_images("images.zip", 9_200_000_000),
            _genome_images("images2.zip", 5_470_000_000),
        ),
        note="the annotations' address is the one that their author gave after those of the download script went dead; it was "
        "not verified from here. The Hugging Face data set junbeomHong/phrasecut is a copy: --from takes its folder. "
        "refer_train.json is not needed: nothing is trained",
    ),
    Source(
        "data",
        "coco-train2014",
        what="COCO's train2014 images (RefCOCO, RefCOCO+, RefCOCOg)",
        licence="COCO does not own the images: their use follows Flickr's terms",
        image_names="*COCO_train2014_*",
        items=(
            Item(
                name="train2014.zip",
                url="http://images.cocodataset.org/zips/train2014.zip",
                host="images.cocodataset.org",
                size=13_510_573_713,
                place="COCO images",
                digest="ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
                digest_from="the checksum list of TensorFlow Datasets",
                archive=Archive(("train2014",), pattern="COCO_train2014_*.jpg", count=82_783),
            ),
        ),
    ),
)


def find(kind: Kind, name: str) -> Source:
    """The source of that name.

    Raises:
        ParameterError: there is none; with the nearest one and all of them.
    """
    known = {source.name: source for source in SOURCES if source.kind == kind}
    if name not in known:
        raise ParameterError(f"glimpse fetch {kind}: nothing is called {name!r}; {nearest(name, known)}")
    return known[name]


def _folder(project: LoadedProject, place: Place) -> Path:
    """The one place that knows which parameters say where things go."""
    values = project.values
    if place == "proposal weights":
        weights = PROPOSAL_SOURCES[values.propose.source].input_is_weights
        own = values.propose.input if weights else values.main_encoder.weights
        return project.path(own).parent
    if place == "CLIP weights":
        return project.path(values.main_encoder.weights).parent
    if place == "annotations":
        return project.path(values.index.annotations)
    if place == "COCO images":
        return project.path(values.images, "train2014")
    return project.path(values.images, "phrasecut")


def destination(project: LoadedProject, item: Item) -> Path:
    """The file, or for an archive the folder with its files, as the profile's parameters want it.

    Weights lie in the folder of the profile's weights file, under their published name; annotations below the
    annotation folder; images in the image folder.
    """
    folder = _folder(project, item.place) / item.folder
    return folder if item.archive else folder / item.name


def command(project: LoadedProject, source: Source) -> str:
    """What to type to fetch a source for this profile."""
    return with_params(project, f"glimpse fetch {source.kind} {source.name}")


def published(project: LoadedProject, path: Path) -> tuple[Source, Item] | None:
    """The source and item that belong at ``path``, if one of the table does."""
    pairs = [(source, item) for source in SOURCES for item in source.items]
    return next((pair for pair in pairs if destination(project, pair[1]) == path), None)


def listing_file(project: LoadedProject, source: Source, name: str) -> Path:
    """Where an annotation file of ``source`` lies, which may come in an archive."""
    item = next(item for item in source.items if name in (item.name, *(item.archive.holds if item.archive else ())))
    return destination(project, item) / name if item.archive else destination(project, item)


def listed_images(project: LoadedProject, source: Source, name: str) -> frozenset[str]:
    """File names of the images that an annotation file of ``source`` lists for the splits that are scored.

    Raises:
        DataError: the file is missing, is no JSON or has another form.
    """
    listed = KINDS[source.dataset].listed_images
    if listed is None:
        raise ParameterError(f"{source.name}: kind {source.dataset} lists no images; correct the table of sources")
    path = listing_file(project, source, name)
    try:
        return listed(path)
    except DataError as error:
        raise DataError(f"{error}; put the right one there, or: {command(project, source)}") from error


def image_source(sources: Iterable[Source], name: str) -> str:
    """The source that has an image of this name below the image root; "" for one that none has."""
    return next((s.name for s in sources if s.image_names and fnmatchcase(name, s.image_names)), "")
