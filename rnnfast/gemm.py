"""Which of torch's two matrix libraries multiplies an input's many rows; ``csrc/cpu/gemm.h`` says why."""

from __future__ import annotations

import torch

# Multiplications from which on oneDNN was the faster.
WORTH_ONEDNN = 5e7
HAS_ONEDNN = torch.backends.mkldnn.is_available()


def onednn_from() -> float | None:
    """From how many multiplications on a float32 product goes to oneDNN; None: never."""
    return WORTH_ONEDNN if HAS_ONEDNN and torch.backends.mkldnn.enabled else None
