"""Speed, each against a plain version of the same work in the same run: ``python -m benchmarks``."""

import os

# As the command line has it: threads of OpenBLAS that wait beside torch's own made small products ten times as slow.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
