"""Boxes, tags and trails drawn into pictures."""
