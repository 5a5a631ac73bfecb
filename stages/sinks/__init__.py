"""Stages that hand results on: files, windows, servers and brokers."""
