"""Figures of the bench: whether they can be, on which CPU they hold, how they are shown."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from pipeline.errors import RunError

NOISE = 0.2
"""A round may be so far off on a machine that others use as well."""


def check_plausible(parts: Mapping[str, float], ratio_to_plain: float, cores: int) -> None:
    """Refuse figures that cannot be, so that none of them is published.

    Args:
        parts: of X, in milliseconds.
        ratio_to_plain: frames per second of the pipeline, over those of the plain loop.
        cores: what works at once: the usable cores, and one more for a GPU.

    Raises:
        RunError: the plain loop cannot be so slow, or a part of X takes less than no time.
    """
    for name, value in parts.items():
        if value < 0:
            raise RunError(
                f"bench: the part {name} of X is negative ({value:.2f} ms), which cannot be; "
                "measure again on a machine that does nothing else"
            )
    if ratio_to_plain > cores * (1 + NOISE):
        raise RunError(
            f"bench: pipeline / plain is {ratio_to_plain:.2f}, which cannot be (at most {cores}, "
            f"as many work at once, and {NOISE:.0%} of noise); measure again on a machine "
            "that does nothing else"
        )


def cpu_model() -> str:
    """Return the name of the CPU, for figures that hold on one like it."""
    names: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                names.setdefault(key.strip().lower(), value.strip())
    except OSError:
        pass
    # On ARM there is only the "Model" of the board; elsewhere that is a number.
    board = "" if "model name" in names else names.get("model", "")
    return names.get("model name") or board or platform.processor() or platform.machine()


def as_text(figures: dict[str, Any]) -> str:
    """Write the figures for a person, each ratio with its denominator."""
    f = figures
    parts = " + ".join(f"{name} {value:.2f}" for name, value in f["x_parts_ms"].items())
    rounds = ", ".join(f"{ratio:.3f}" for ratio in f["ratios"])
    return "\n".join(
        (
            f"CPU               {f['cpu']}",
            f"cores             {f['cores']}",
            f"D                 {f['d_ms']:.2f} ms CPU per frame, bare inference",
            f"X                 {f['x_ms']:.2f} ms CPU per frame = {parts}",
            f"bare              {f['bare_fps']:.1f} fps, inference alone on all cores",
            f"limit             {f['limit_fps']:.1f} fps = cores / (D + X)",
            f"pipeline          {f['pipeline_fps']:.1f} fps in {len(f['processes'])} processes",
            f"pipeline / limit  {f['ratio_to_limit']:.3f} (rounds: {rounds})",
            f"pipeline / bare   {f['pipeline_fps'] / f['bare_fps']:.3f}",
            f"pipeline / plain  {f['ratio_to_plain']:.3f}; plain is one process that does it all, "
            "with the best of the model on all cores, spinning or not, and on one: "
            f"{f['sequential_fps']:.1f} fps",
            f"work / all CPU    {f['work_share']:.3f} = (D + X) / CPU of the pipeline per frame",
            f"overhead          {f['overhead_ms']:.2f} ms CPU per frame beyond D + X",
            f"first detection   {f['start_s']:.2f} s after the start of the command",
        )
    )
