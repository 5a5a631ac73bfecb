"""Figures of results against a data set: arrays in, figures, pictures and pages out."""
