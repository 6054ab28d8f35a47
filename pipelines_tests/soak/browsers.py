"""`python -m pipelines_tests.soak.browsers`: many browsers use the web app while Dagster has thousands of slides.

Prints for each kind of request how many were answered, the median and the longest time; and the most memory that the
web app and each process of the platform took.
"""

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import psutil
import requests
from PIL import Image
from playwright.async_api import FilePayload, async_playwright

from dermatome.geometry import Size
from dermatome.slides.source import inbox_sources
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.nuclei import toy_nuclei
from orchestration.requests import register_slides
from pipelines_tests.e2e.conftest import CHROMIUM
from pipelines_tests.e2e.platform import CHECKOUT, Platform, free_port
from pipelines_tests.soak.chaos import platform_processes

_WAIT_MS = 300_000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data root; slides are registered in it")
    parser.add_argument("--slides", type=int, default=5_000, help="slides to register")
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--predictions", type=int, default=10, help="of each browser, one after another")
    given = parser.parse_args()
    root = DataRoot.at(str(given.data))
    with ExitStack() as stack:
        platform = stack.enter_context(Platform(root.path))
        _register(platform, root, given.slides)
        port = free_port()
        web = subprocess.Popen(
            [sys.executable, "-m", "dermatome.cli.app", "web", "--data", str(root.path), "--port", str(port)],
            cwd=CHECKOUT,
        )
        stack.callback(web.wait, 60)
        stack.callback(web.terminate)
        address = f"http://127.0.0.1:{port}"
        platform.wait_for(lambda: _answers(port), "the web app", timeout_s=120)
        times, memory = asyncio.run(_use(given.browsers, given.predictions, address, platform, psutil.Process(web.pid)))
    for name, seconds in times.items():
        print(f"{name}: {len(seconds)}, median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")
    for name, size in memory.items():
        print(f"memory of the {name}, at most: {size / 2**20:,.0f} MiB")


def _register(platform, root, count):
    """Registers slides of a folder: copies of one picture under many names."""
    folder = Path(tempfile.mkdtemp(prefix="slides-", dir=root.path))
    picture = _png(1, 64)
    for number in range(count):
        (folder / f"many-{number:05}.png").write_bytes(picture)
    with platform.instance() as instance:
        start = time.perf_counter()
        register_slides(instance, root, inbox_sources(folder).values())
        print(f"{count} slides registered in {time.perf_counter() - start:.1f} s", flush=True)


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _png(seed, side):
    buffer = BytesIO()
    Image.fromarray(toy_nuclei(seed, Size(side, side)).slide.whole()).save(buffer, format="PNG")
    return buffer.getvalue()


async def _use(browsers, predictions, address, platform, web):
    times: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, int] = defaultdict(int)
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        watching = asyncio.create_task(_watch(times, memory, address, platform, web))
        contexts = [await chromium.new_context(base_url=address) for _ in range(browsers)]
        await asyncio.gather(*(_person(number, one, predictions, times) for number, one in enumerate(contexts)))
        watching.cancel()
        await chromium.close()
    return times, memory


async def _person(number, context, predictions, times):
    """Uploads an image, runs the network, waits for the result; again and again."""
    page = await context.new_page()
    page.set_default_timeout(_WAIT_MS)
    await page.add_init_script(
        "window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 500)"
    )
    start = time.perf_counter()
    await page.goto("/nuclei")
    await page.locator("#dm-run").wait_for()
    # People's browsers draw on machines of their own: twenty animations on this one would take the app's processors.
    await page.add_style_tag(content="* { animation: none !important; transition: none !important }")
    times["page opened"].append(time.perf_counter() - start)
    for turn in range(predictions):
        name = f"field-{number}-{turn}"
        file = FilePayload(name=f"{name}.png", mimeType="image/png", buffer=_png(100 * number + turn, 512))
        if turn:
            await page.get_by_label("Clear").first.click()
        await page.set_input_files("input[type=file]", file)
        await page.get_by_text(name[:8]).first.wait_for()
        start = time.perf_counter()
        await page.click("#dm-run")
        await page.locator("#dm-status").get_by_text(name).wait_for()
        times["prediction"].append(time.perf_counter() - start)
        print(f"{len(times['prediction'])} predictions", flush=True)


async def _watch(times, memory, address, platform, web):
    """Requests the health of the web app and for pages of the Dagster UI; reads the memory of all processes."""
    slides = """{ assetNodeOrError(assetKey: {path: ["slide_images"]}) { ... on AssetNode {
        partitionStats { numPartitions numMaterialized } } } }"""
    while True:
        await _timed(times, "health check of the web app", lambda: requests.get(f"{address}/healthz", timeout=60))
        await _timed(times, "page of the Dagster UI", lambda: requests.get(platform.url, timeout=60))
        await _timed(times, "partitions of slide_images", lambda: platform.query(slides))
        memory["web app"] = max(memory["web app"], web.memory_info().rss)
        for pid, role in platform_processes(platform.root).items():
            with contextlib.suppress(psutil.Error):  # it has ended
                if pid != web.pid:
                    memory[role] = max(memory[role], psutil.Process(pid).memory_info().rss)
        await asyncio.sleep(3)


async def _timed(times, name, ask):
    start = time.perf_counter()
    await asyncio.to_thread(ask)
    times[name].append(time.perf_counter() - start)


if __name__ == "__main__":
    main()
