"""``glimpse segment``: load what the profile configures, segment one image, write an overlay."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.arguments import checked
from pipeline.commands.single_image import segment
from pipeline.project import LoadedProject, model_path
from pipeline.runner import Execution
from stages.device.memory import rows_for
from stages.page.overlay import overlay, png
from stages.proposals.registry import SOURCES
from stages.scoring.table import Scoring
from store.errors import ParameterError
from store.images import load_image
from store.publish import write_file

_DEMO_NOTE = "note: these weights know only RefShapes, drawn shapes; on a photograph their answer means nothing"


def segment_file(
    project: LoadedProject, file: Path, text: str, alpha: float | None, beta: float | None, out: Path
) -> str:
    """Segment the image in ``file`` by ``text``; write the overlay to ``out``; return what there is to say.

    Raises:
        DataError: the file is no image. WeightsError: a model is missing or another one. ParameterError: the profile does
            not propose with a source that knows any image.
    """
    from stages.clip.weights import load_clip
    from stages.text.spacy_model import load_spacy
    from stages.visual.encoder import MaskedClip

    values, execution = project.values, Execution.from_environment()
    execution.check_device()
    proposer = SOURCES[values.propose.source].image_proposer
    if proposer is None:
        capable = ", ".join(name for name, source in SOURCES.items() if source.image_proposer)
        raise ParameterError(
            f"{project.file}: expected a propose.source that can propose masks for any image ({capable}), got "
            f"{values.propose.source}; set it, with what it reads in propose.input, or name another --params"
        )
    given = {name: value for name, value in {"alpha": alpha, "beta": beta}.items() if value is not None}
    scoring = checked(Scoring, {**values.score.model_dump(), **given}, "glimpse segment")
    image = load_image(file)
    propose, encoder = values.propose, values.main_encoder
    net = proposer(project.path(propose.input), propose.used(), propose.box, execution.device)
    model, tokenizer = load_clip(
        model_path(project, encoder.model),
        project.path(encoder.weights),
        device=execution.device,
        precision=encoder.precision,
        image_size=encoder.image_size,
    )
    rows = rows_for(execution.device, execution.batch)
    clip = MaskedClip(model, tokenizer, **values.embed_masks.seen(), batch=rows)
    result = segment(
        image,
        text,
        net,
        clip,
        load_spacy(values.parse.spacy_model),
        scoring=scoring,
        template=values.embed_text.template,
    )
    masks = result.proposals.masks
    choice = masks[result.chosen] if result.chosen >= 0 else None
    score = f"score {result.scores[result.chosen]:.2f}" if choice is not None else "no proposal"
    blank = "" if result.sentence.strip() else "the phrase is blank; "
    summary = f"{blank}{len(masks)} proposals; noun phrase {result.noun_phrase!r}; {score}"
    rest = np.delete(masks, result.chosen, axis=0) if choice is not None else masks
    drawn = overlay(image, choice=choice, proposals=rest, caption=[text, summary], width=max(640, image.width))
    write_file(out, png(drawn))
    note = f"\n{_DEMO_NOTE}" if "refshapes" in encoder.weights.name else ""
    return f"{out}: {summary}{note}"
