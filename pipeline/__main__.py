"""``python -m pipeline`` is ``glimpse``: what dvc.yaml calls, from the working copy that it runs in."""

from pipeline.cli import main

main()
