"""One thread a process: the models are tiny, several processes run at once, and more threads wait for each other."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it once, when it is first imported
