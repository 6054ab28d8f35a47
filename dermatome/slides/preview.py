"""Small previews of images and figures for Dagster's UI."""

from __future__ import annotations

import io

from PIL import Image

from dermatome.classes import RgbImage

_PREVIEW_PX, _MAX_BYTES = 480, 8_000


def preview(image: bytes | RgbImage) -> bytes:
    """Encodes a figure (PNG bytes) or an image (H, W, 3) uint8 as WebP of at most 8,000 bytes."""
    with Image.open(io.BytesIO(image)) if isinstance(image, bytes) else Image.fromarray(image) as opened:
        full = opened.convert("RGB")
    full.thumbnail((_PREVIEW_PX, _PREVIEW_PX), Image.Resampling.LANCZOS)
    small, side = full, _PREVIEW_PX
    while True:
        buffer = io.BytesIO()
        # At this quality, a core of noisy tissue is still 200 px wide, and the text of most figures is readable.
        small.save(buffer, format="WEBP", quality=30)
        if buffer.tell() <= _MAX_BYTES or side <= 64:
            return buffer.getvalue()
        side = max(64, int(side * min(0.92, (_MAX_BYTES / buffer.tell()) ** 0.6)))
        small = full.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
