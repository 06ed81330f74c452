"""Run by torchrun in two processes: the gradients of a batch that is split are those of one process."""

import torch
import torch.distributed as dist
from kinds import KINDS, make
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_sequence


def layer_of(kind):
    torch.manual_seed(1)
    return make(kind, 5, 6, num_layers=2, bidirectional=True)


def loss_of(model, sequences, packed):
    batch = pack_sequence(sequences) if packed else torch.stack([s[:3] for s in sequences], 1)
    output = model(batch)[0]
    return (output.data if packed else output).sin().sum()


def main():
    dist.init_process_group("gloo")
    rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,))
    torch.set_num_threads(1)
    for kind in KINDS:
        for packed in (False, True):
            torch.manual_seed(0)
            sequences = [torch.randn(n, 5) for n in (7, 5, 4, 3)]
            alone = layer_of(kind)
            loss_of(alone, sequences, packed).backward()
            expected = {name: p.grad for name, p in alone.named_parameters()}

            # Both average over the processes.
            parallel = DistributedDataParallel(layer_of(kind))
            (2 * loss_of(parallel, sequences[rank::2], packed)).backward()
            torch.testing.assert_close({n: p.grad for n, p in parallel.module.named_parameters()}, expected)

            sharded = layer_of(kind)
            fully_shard(sharded, mesh=mesh)
            (2 * loss_of(sharded, sequences[rank::2], packed)).backward()
            found = {n: p.grad.full_tensor() for n, p in sharded.named_parameters()}
            torch.testing.assert_close(found, expected)
    dist.destroy_process_group()
    if rank == 0:
        print("the same")


if __name__ == "__main__":
    main()
