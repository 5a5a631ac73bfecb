"""Boxes, tags and trails drawn into images."""
