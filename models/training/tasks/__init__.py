"""Tasks: figures, thresholds and pictures that methods with the same kind of answer share."""
