"""Eyeline as a service of systemd."""
