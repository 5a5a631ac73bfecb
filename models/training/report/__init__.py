"""The report of a training: one HTML file with its pictures inside."""
