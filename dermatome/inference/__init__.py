"""Running a network over a slide: device, precision, backend, tiled prediction."""
