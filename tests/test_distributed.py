"""Data parallel and sharded training, in two processes."""

import os
import socket
import sys
from pathlib import Path

from programs import execute


def test_gradients_are_those_of_one_process():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    path = f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = execute([*torchrun, here / "distributed_program.py"], PYTHONPATH=path, OMP_NUM_THREADS="1")
    assert done.stdout.endswith("the same\n"), done.stderr[-3000:]
