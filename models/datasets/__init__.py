"""Labelled data sets: a format is one file with a reader and a writer, and one line here."""
