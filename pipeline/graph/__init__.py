"""From settings to a plan of stages, streams and processes; nothing is started here."""
