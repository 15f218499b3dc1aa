"""Models: weights, stacks of adapters, packed rows, scoring, generation."""

import os

# Threads that wait for each other by spinning halve the speed as soon as another process wants the
# cores; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
