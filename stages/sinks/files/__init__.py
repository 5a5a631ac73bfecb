"""Sinks that write text files and pictures."""
