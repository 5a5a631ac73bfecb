"""Counters, traces and logs of a run."""
