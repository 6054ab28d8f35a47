"""Networks run by torch: channels-last, at the precision chosen, with batches in flight; also compiled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from dermatome.inference.backend import Outputs, Tag
    from dermatome.inference.compute import Compute

_AHEAD = 3
"""Batches in flight: one in the network, one waiting, one being fetched back."""


class TorchRunner:
    """A network run as it is; see :class:`dermatome.inference.backend.Runner`."""

    backend = "torch"

    def __init__(self, module: torch.nn.Module, compute: Compute) -> None:
        """``module`` in evaluation mode, on ``compute``'s device."""
        import torch

        channels_last: Any = torch.channels_last
        self._compute = compute
        self._module: Any = module.to(memory_format=channels_last)  # type: ignore[call-overload]

    def run(self, batch: npt.NDArray[Any]) -> Outputs:
        """See :meth:`dermatome.inference.backend.Runner.run`."""
        import torch

        with torch.inference_mode():
            return tuple(output.cpu().numpy() for output in self._forward(self._send(batch)))

    def stream(self, batches: Iterable[tuple[Tag, npt.NDArray[Any]]]) -> Iterator[tuple[Tag, Outputs]]:
        """See :meth:`dermatome.inference.backend.Runner.stream`."""
        return self._on_cuda(batches) if self._compute.device == "cuda" else self._in_thread(batches)

    def _forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with self._compute.autocast():
            found = self._module(batch)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(output.float() for output in outputs)

    def _send(self, batch: npt.NDArray[Any]) -> torch.Tensor:
        """The batch on the device; from pinned memory the copy to a card runs beside the network."""
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(batch))
        if self._compute.device == "cuda":
            return tensor.pin_memory().to(self._compute.torch_device, non_blocking=True)
        return tensor.to(self._compute.torch_device)

    def _in_thread(self, batches: Iterable[tuple[Tag, npt.NDArray[Any]]]) -> Iterator[tuple[Tag, Outputs]]:
        flying: deque[tuple[Tag, Future[Outputs]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="network") as thread:
            try:
                for tag, batch in batches:
                    flying.append((tag, thread.submit(self.run, batch)))
                    if len(flying) >= _AHEAD:
                        tag, future = flying.popleft()
                        yield tag, future.result()
                while flying:
                    tag, future = flying.popleft()
                    yield tag, future.result()
            finally:
                for _, future in flying:
                    future.cancel()

    def _on_cuda(self, batches: Iterable[tuple[Tag, npt.NDArray[Any]]]) -> Iterator[tuple[Tag, Outputs]]:
        """Copies and kernels are queued on the card, and only their results are waited for, a few batches later."""
        import torch

        flying: deque[tuple[Tag, tuple[torch.Tensor, ...], torch.cuda.Event]] = deque()
        for tag, batch in batches:
            with torch.inference_mode():
                outputs = self._forward(self._send(batch))
                fetched = tuple(torch.empty(o.shape, dtype=o.dtype, pin_memory=True) for o in outputs)
                for here, there in zip(fetched, outputs, strict=True):
                    here.copy_(there, non_blocking=True)
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                # Of its own card: the current one may be another, and there nothing would be waited for.
                done.record(torch.cuda.current_stream(self._compute.torch_device))
            flying.append((tag, fetched, done))
            if len(flying) >= _AHEAD:
                yield self._landed(*flying.popleft())
        while flying:
            yield self._landed(*flying.popleft())

    @staticmethod
    def _landed(tag: Tag, fetched: tuple[torch.Tensor, ...], done: torch.cuda.Event) -> tuple[Tag, Outputs]:
        done.synchronize()
        return tag, tuple(output.numpy() for output in fetched)


class CompiledRunner(TorchRunner):
    """A network compiled for the usual batch, which takes a minute; other sizes of image run uncompiled."""

    backend = "compile"

    def __init__(self, module: torch.nn.Module, example: npt.NDArray[Any], compute: Compute) -> None:
        """Compiled for batches of the shape of ``example`` when the first one comes."""
        import torch

        super().__init__(module, compute)
        self._shape = example.shape
        # One shape only: each new one would cost another minute, and shapes left open cost speed.
        self._compiled: Any = torch.compile(self._module, dynamic=False)

    def _forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch

        missing = self._shape[0] - len(batch)
        if tuple(batch.shape[1:]) != self._shape[1:] or missing < 0:
            return super()._forward(batch)
        full = torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])]) if missing else batch
        with self._compute.autocast():
            found = self._compiled(full)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(output[: len(batch)].float() for output in outputs)
