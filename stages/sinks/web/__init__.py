"""The status page: server, live images, metrics."""
