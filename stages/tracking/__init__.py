"""The tracker stage and its algorithms."""
