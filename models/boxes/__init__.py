"""Arithmetic on boxes; numpy and OpenCV only."""
