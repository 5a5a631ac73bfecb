"""The process that starts the workers, restarts them and ends them."""
