"""Proposals: boxes of a picture that may hold an object of any class, found without a model.

selective_search  the proposals of a picture, best first
segments          the start segments: small regions of one look, and what is measured of each
grouping          the hierarchy of regions above the start segments
cache             proposals on disk, computed once per picture and settings
recall            share of the objects that a number of proposals finds
"""
