"""Troth: two-phase commit for Python services. This package is the ground that coordinator and participants share."""

__version__ = "0.1.0"
