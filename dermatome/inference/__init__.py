"""Runs networks over slides: device, precision, backend, tiled prediction."""
