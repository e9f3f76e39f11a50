"""Imprint: few-shot classification over HTTP."""

import os

# Before torch loads OpenMP: its threads then sleep where they would spin for each other. On a machine that decodes
# and answers beside the backbone, spinning cost up to 15 times the time of a forward; sleeping costs a tenth.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
