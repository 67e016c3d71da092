"""Measurements of the service as it is really started: `make bench`."""
