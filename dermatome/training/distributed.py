"""Processes that train one network together, a GPU each: torch's DistributedDataParallel without its launcher.

The first member is the process that was called; it starts the others, validates, writes checkpoints and decides when
the run is over. What a step learns depends on the settings alone, not on how many members share its passes.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

_PATIENCE = timedelta(hours=2)
"""How long the others wait while the first one validates."""


@dataclass(frozen=True)
class Team:
    """One member's view of those that train together; alone, nothing is exchanged.

    Attributes:
        rank: the member's number; 0 is the first.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        """``network`` as it is trained: its gradients are the mean over all members after each backward pass."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # Running statistics are averaged by the training step: the first member's alone would be a part of the batch.
        with warnings.catch_warnings():
            # Newer versions call it `forward_sync_buffers`, older ones do not know that name.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(network, broadcast_buffers=False)

    def quiet(self, wrapped: torch.nn.Module) -> AbstractContextManager[Any]:
        """A context whose backward passes keep their gradients to this member, to be exchanged by a later one."""
        return nullcontext() if self.size == 1 else wrapped.no_sync()  # type: ignore[operator]

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Makes each tensor the sum of all members'."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.all_reduce(tensor)

    def agreed(self, share: float, over: bool, device: torch.device) -> tuple[float, bool]:
        """What the first member says: how much of the run is done, and whether it is over."""
        if self.size == 1:
            return share, over
        import torch
        import torch.distributed as dist

        said = torch.tensor([share, float(over)], dtype=torch.float64, device=device)
        dist.broadcast(said, 0)
        done, ended = said.tolist()
        return done, bool(ended)


@contextmanager
def team_of(size: int, compute: Compute, member: Callable[..., None], arguments: Sequence[Any]) -> Iterator[Team]:
    """This process as the first of ``size`` members, and the others running ``member(team, *arguments)``.

    Args:
        size: how many; on a machine with GPUs, at most as many as there are GPUs.
        compute: device and precision; member n uses the nth GPU.
        member: a function of a module, as it is sent to other processes.
        arguments: picklable.

    Raises:
        BadSetting: there are fewer GPUs.
        RuntimeError: another member failed.
    """
    import torch

    if size < 1 or (compute.device == "cuda" and size > torch.cuda.device_count()):
        raise BadSetting(
            f"{size} GPUs were asked for and there are {torch.cuda.device_count()}: set the number of GPUs to what is "
            "there."
        )
    if size == 1:
        yield Team()
        return
    with tempfile.TemporaryDirectory(prefix="dermatome-team-") as folder:
        meeting = Path(folder) / "meeting"
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_run_member, args=(rank, size, meeting, compute, member, arguments), daemon=True)
            for rank in range(1, size)
        ]
        try:
            for process in others:
                process.start()
            with _joined(0, size, meeting, compute) as team:
                yield team
            for process in others:
                process.join()
            if failed := [process.exitcode for process in others if process.exitcode]:
                raise RuntimeError(f"{len(failed)} of {size} training processes ended with code {failed[0]}")
        finally:
            for process in others:
                if process.is_alive():
                    process.kill()


def _run_member(
    rank: int, size: int, meeting: Path, compute: Compute, member: Callable[..., None], arguments: Sequence[Any]
) -> None:
    import torch

    torch.set_num_threads(compute.threads)
    with _joined(rank, size, meeting, compute) as team:
        member(team, *arguments)


@contextmanager
def _joined(rank: int, size: int, meeting: Path, compute: Compute) -> Iterator[Team]:
    import torch
    import torch.distributed as dist

    if compute.device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if compute.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting.as_uri(), rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield Team(rank, size)
    finally:
        dist.destroy_process_group()
