"""Times and sizes as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a time: 40 s, 3 min 20 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(1, whole)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def megabytes(size: int) -> str:
    """Return a size in bytes as megabytes."""
    return f"{size / 1e6:.1f} MB"
