"""The process that starts the workers, restarts them and ends them.

Read supervisor.py first, then lifecycle.py and processes.py."""
