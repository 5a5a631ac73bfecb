"""Arithmetic on boxes; numpy only."""
