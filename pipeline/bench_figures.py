"""Figures of the bench: a check that they are possible, the name of the CPU, their text."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from pipeline.errors import RunError

NOISE = 0.2
"""Relative error that a round may have on a machine with other load."""


def check_plausible(parts: Mapping[str, float], ratio_to_plain: float, cores: int) -> None:
    """Refuse impossible figures, so that none of them is published.

    Args:
        parts: parts of X, in milliseconds.
        ratio_to_plain: frames per second of the pipeline, divided by those of the plain loop.
        cores: processors that work at once: the usable cores, and one more for a GPU.

    Raises:
        RunError: the plain loop is impossibly slow, or a part of X is negative.
    """
    for name, value in parts.items():
        if value < 0:
            raise RunError(
                f"bench: part {name} of X is negative (found {value:.2f} ms), which is impossible; "
                "measure again on a machine without other load"
            )
    if ratio_to_plain > cores * (1 + NOISE):
        raise RunError(
            f"bench: pipeline / plain is impossibly high (found {ratio_to_plain:.2f}; {cores} "
            f"processors and {NOISE:.0%} noise allow {cores * (1 + NOISE):g}); measure again on a "
            "machine without other load"
        )


def cpu_model() -> str:
    """Return the name of the CPU on which the figures hold."""
    names: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                names.setdefault(key.strip().lower(), value.strip())
    except OSError:
        pass
    # On ARM only the "Model" of the board is given; elsewhere that is a number.
    board = "" if "model name" in names else names.get("model", "")
    return names.get("model name") or board or platform.processor() or platform.machine()


def as_text(figures: dict[str, Any]) -> str:
    """Return the figures as text, each ratio with its denominator."""
    f = figures
    parts = " + ".join(f"{name} {value:.2f}" for name, value in f["x_parts_ms"].items())
    models = " + ".join(f"{name} {value:.2f}" for name, value in f["d_parts_ms"].items())
    several = f" = {models}" if len(f["d_parts_ms"]) > 1 else ""
    rounds = ", ".join(f"{ratio:.3f}" for ratio in f["ratios"])
    return "\n".join(
        (
            f"CPU               {f['cpu']}",
            f"cores             {f['cores']}",
            f"D                 {f['d_ms']:.2f} ms CPU per frame, bare inference{several}",
            f"X                 {f['x_ms']:.2f} ms CPU per frame = {parts}",
            f"bare              {f['bare_fps']:.1f} fps, inference alone on all cores",
            f"limit             {f['limit_fps']:.1f} fps = cores / (D + X)",
            f"pipeline          {f['pipeline_fps']:.1f} fps in {len(f['processes'])} processes",
            f"pipeline / limit  {f['ratio_to_limit']:.3f} (rounds: {rounds})",
            f"pipeline / bare   {f['pipeline_fps'] / f['bare_fps']:.3f}",
            f"pipeline / plain  {f['ratio_to_plain']:.3f}; plain is one process that does all, "
            "with the best of the model on all cores, spinning or not, and on one: "
            f"{f['sequential_fps']:.1f} fps",
            f"work / all CPU    {f['work_share']:.3f} = (D + X) / CPU of the pipeline per frame",
            f"overhead          {f['overhead_ms']:.2f} ms CPU per frame beyond D + X",
            f"first detection   {f['start_s']:.2f} s after the start of the command",
        )
    )
