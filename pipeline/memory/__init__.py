"""Shared memory: slots, the tables of workers and streams, and the figures that all read."""
