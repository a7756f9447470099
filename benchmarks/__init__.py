"""How fast rnnx is beside others that run the same model: one question per file, `make bench` for all, `python -m benchmarks.step` for one.

What makes figures worth believing, and where it stands:

- everybody does the same work, and what they answer is compared before it is timed (`heat`);
- by turns in short spells, so that a machine that gets slower does so for all; ratios are taken within a round (`rnnx._bench.timing`);
- one thread each, on one pinned core, and no thread that spins (here, before anything reads it);
- every peer in its best form that a person would still write (`peers`), float32 for all: where a default computes with less, it is told not to;
- what starts once (imports, loading) is measured in fresh processes (`cold_start`), never in one that is warm.
"""

import os

# Read when the libraries are first imported, so they are said first: one thread for OpenMP and the BLAS of numpy, no telemetry.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)
