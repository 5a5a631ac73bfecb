"""Short videos of events."""
