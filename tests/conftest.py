"""One thread, no network, and every annotation of the package checked as it runs."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start, too
os.environ["HF_HUB_OFFLINE"] = "1"

import jaxtyping

jaxtyping.install_import_hook("maskworld", "beartype.beartype")

import torch

torch.set_num_threads(1)
