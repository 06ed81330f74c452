"""Large arrays are asked for in large pages, where the system has them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_at(address):
    """The kernel's flags of the memory there, as /proc/self/smaps has them."""
    within = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(place, 16) for place in first.split("-"))
            within = begin <= address < end
        elif within and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"no memory at {address:#x}")


def activations(T):
    """Of an LSTM, (T, 64, 256 units of 4 gates) in float32."""
    B, H = 64, 256
    gates, w_hh = torch.randn(T, B, 1, 4 * H), torch.randn(1, 4 * H, H) / 16
    return torch.ops.rnnfast.recurrence(gates, None, w_hh, None, None, None, None, None, "lstm", saves=True)[3]


def check():
    # What is freed keeps its flags and may come again: the small one first.
    for T, large in ((40, False), (129, True)):
        array = activations(T)
        assert (array.nbytes > 32 << 20) == large
        assert ("hg" in flags_at(array.data_ptr() + array.nbytes // 2)) == large


@pytest.mark.skipif(not THP.exists() or "[never]" in THP.read_text(), reason="the system has no large pages")
def test_arrays_of_many_megabytes_are_in_large_pages():
    program, here = "import rnnfast, test_large_pages; test_large_pages.check()", Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
