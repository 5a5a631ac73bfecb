"""The status page: server, live pictures, metrics."""
