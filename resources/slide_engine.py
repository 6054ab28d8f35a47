"""What works on many slides at once: this machine, or a Ray cluster."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import dagster as dg

from dermatome.errors import BadSetting
from dermatome.inference.compute import count_gpus, free_cores
from dermatome.pipeline.local import LocalEngine, share_out
from dermatome.pipeline.work import Engine, Finished, SlideWork, WorkerOptions
from dermatome.pipeline.worker import Worker
from resources.settings import SettingsResource

Made = TypeVar("Made")


class SlideEngineResource(dg.ConfigurableResource):
    """Works on partitions as the settings' section ``[engine]`` says: each gives its own result or its own error."""

    settings: SettingsResource

    def map(self, work: SlideWork[Any, Any, Made], keys: Sequence[str]) -> Generator[Finished[Made], None, None]:
        """Yields keys as they finish; see :class:`dermatome.pipeline.work.Engine`.

        Raises:
            BadSetting: the engine asked for is not there.
        """
        yield from self._engine().map(work, keys)

    def here(
        self, work: SlideWork[Any, Any, Made], keys: Sequence[str], at_once: int
    ) -> Generator[Finished[Made], None, None]:
        """The same in threads of this process, ``at_once`` keys: for work that only waits for a network or a disk."""
        options = replace(self.settings.value.engine.phases, writers=at_once, readers=1, waiting=2 * at_once)
        yield from Worker(work, options).run(keys)

    def _engine(self) -> Engine:
        asked, compute = self.settings.value.engine, self.settings.value.compute
        if asked.workers < 0:
            raise BadSetting(f"The slide engine's workers are {asked.workers}: set them to 0 (as many as fit) or more.")
        if asked.kind == "ray":
            return _ray_engine(asked.ray_address, asked.workers, replace(asked.phases, threads=compute.threads))
        gpus = count_gpus(compute.device)
        workers = asked.workers or max(1, gpus)
        return LocalEngine(share_out(asked.phases, workers, compute.threads or free_cores(), gpus))


def _ray_engine(address: str | None, workers: int, options: WorkerOptions) -> Engine:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise BadSetting(
            "The slide engine is set to 'ray' and Ray is not installed: pip install 'dermatome[ray]', or set kind to "
            "'local'."
        ) from error
    from dermatome.pipeline.ray_engine import RayEngine

    return RayEngine(address, workers, options)
