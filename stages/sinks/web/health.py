"""Health checks: their paths, and their answers."""

from __future__ import annotations

from pipeline.status import RunStatus

HEALTH_PATHS = ("/healthz", "/readyz")
"""Paths that are answered under any load."""

Health = tuple[str, int]
"""Text and HTTP status of the answer to a health check."""
HEALTHY: Health = ("ok\n", 200)
READY: Health = ("ready\n", 200)
NOT_READY: Health = ("not ready\n", 503)


def readiness(status: RunStatus) -> Health:
    """Return the answer to a readiness check, without the reason."""
    return READY if status.ready and status.phase == "running" else NOT_READY


def why_not_ready(status: RunStatus) -> str:
    """Describe what a run that is not ready is waiting for."""
    if status.phase != "running":
        return f"the run is {status.phase}"
    absent = [stage.name for stage in status.stages if any(not w.pid for w in stage.workers)]
    opening = [s.name for s in status.streams if s.condition.state == "opening"]
    reasons = []
    if absent:
        reasons.append(f"starting: {', '.join(absent)}")
    if opening:
        reasons.append(f"no image yet: {', '.join(opening)}")
    return "; ".join(reasons) or "stages are opening"
