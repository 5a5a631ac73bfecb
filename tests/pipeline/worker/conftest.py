"""Every test of a worker runs without sockets, and its reports go to a list."""

from tests.pipeline.worker.stand import stand

__all__ = ["stand"]
