"""Whether large float32 products may go to oneDNN; ``csrc/cpu/gemm.h`` says why."""

from __future__ import annotations

import torch

HAS_ONEDNN = torch.backends.mkldnn.is_available()


def onednn() -> bool:
    """As torch's own switch says, ``torch.backends.mkldnn.enabled``."""
    return HAS_ONEDNN and torch.backends.mkldnn.enabled
