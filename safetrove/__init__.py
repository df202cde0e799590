"""The front door: command line, demo and doctor. Imports the rooms; no room imports it."""

__version__ = "0.1.0"
