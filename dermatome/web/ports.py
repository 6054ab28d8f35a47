"""Finds out whether a server can listen on a port, before anything that it serves is loaded."""

from __future__ import annotations

import socket


def port_problem(host: str, port: int) -> str:
    """Why no server can listen on a port of a host, as the system states it; empty if one can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as web servers do
        try:
            probe.bind((host, port))
        except (OSError, OverflowError, UnicodeError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""
