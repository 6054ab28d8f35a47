"""Training of one network by several processes with one GPU each: DistributedDataParallel without torch's launcher.

Rank 0 is the calling process: it starts the others, validates, writes checkpoints and decides when the run is over. The
result of a step depends on the settings alone, not on the number of processes that share its micro-batches.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

_TIMEOUT = timedelta(hours=2)
"""Time limit for the other processes while rank 0 validates."""


@dataclass(frozen=True)
class Group:
    """The group of training processes, as this process sees it; a group of one exchanges nothing."""

    rank: int = 0
    size: int = 1

    def wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network wrapped for training: each backward pass averages its gradients over the group."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # The training step averages the running statistics itself; torch would use those of rank 0.
        with warnings.catch_warnings():
            # Newer versions call it `forward_sync_buffers`, older ones do not know that name.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(network, broadcast_buffers=False)

    def without_exchange(self, wrapped: torch.nn.Module) -> AbstractContextManager[Any]:
        """A context in which backward passes accumulate gradients in this process only."""
        return nullcontext() if self.size == 1 else wrapped.no_sync()  # type: ignore[operator]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces each tensor by its sum over the group, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.all_reduce(tensor)

    def agreed(self, share: float, over: bool, device: torch.device) -> tuple[float, bool]:
        """Rank 0's values: the share of the run that is done, and whether it is over."""
        if self.size == 1:
            return share, over
        import torch
        import torch.distributed as dist

        values = torch.tensor([share, float(over)], dtype=torch.float64, device=device)
        dist.broadcast(values, 0)
        share, ended = values.tolist()
        return share, bool(ended)


@contextmanager
def group_of(size: int, compute: Compute, member: Callable[..., None], arguments: Sequence[Any]) -> Iterator[Group]:
    """Runs ``member(group, *arguments)`` in ``size - 1`` other processes, with this process as rank 0.

    ``member`` is a module-level function with picklable arguments; rank n uses GPU n.

    Raises:
        BadSetting: there are fewer than ``size`` GPUs.
        RuntimeError: another process failed.
    """
    import torch

    if size < 1 or (compute.device == "cuda" and size > torch.cuda.device_count()):
        raise BadSetting(
            f"{size} GPUs were requested and {torch.cuda.device_count()} are available: set gpus to what is available."
        )
    if size == 1:
        yield Group()
        return
    with tempfile.TemporaryDirectory(prefix="dermatome-group-") as folder:
        rendezvous = Path(folder) / "rendezvous"
        others = [(rank, size, rendezvous, compute, member, arguments) for rank in range(1, size)]
        with processes_beside(_run_member, others), _joined(0, size, rendezvous, compute) as group:
            yield group


@contextmanager
def processes_beside(run: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> Iterator[None]:
    """Calls ``run`` with each of ``arguments`` in another process while the block runs, and then waits for them.

    ``run`` is a module-level function and its arguments are picklable. The processes end with this one, even if it is
    killed, and if the block fails.

    Raises:
        RuntimeError: one of them failed.
    """
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_until_parent_ends, args=(run, *own), daemon=True) for own in arguments]
    try:
        for process in others:
            process.start()
        yield
        for process in others:
            process.join()
        if failed := [process.exitcode for process in others if process.exitcode]:
            raise RuntimeError(f"{len(failed)} of {len(others) + 1} training processes ended with code {failed[0]}")
    finally:
        for process in others:
            if process.is_alive():
                process.kill()


def _until_parent_ends(run: Callable[..., None], *arguments: Any) -> None:
    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    run(*arguments)


def _run_member(
    rank: int, size: int, rendezvous: Path, compute: Compute, member: Callable[..., None], arguments: Sequence[Any]
) -> None:
    import torch

    torch.set_num_threads(compute.threads)
    with _joined(rank, size, rendezvous, compute) as group:
        member(group, *arguments)


@contextmanager
def _joined(rank: int, size: int, rendezvous: Path, compute: Compute) -> Iterator[Group]:
    import torch
    import torch.distributed as dist

    if compute.device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if compute.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=rendezvous.as_uri(), rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()
