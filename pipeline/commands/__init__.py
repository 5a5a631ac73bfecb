"""The command line: a part of run.py, which alone imports it."""
