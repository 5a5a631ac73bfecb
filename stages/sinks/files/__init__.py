"""Sinks that write text files and images."""
