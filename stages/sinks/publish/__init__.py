"""Sinks that publish events to brokers and other programs."""
