"""The version of this release. The build reads it from here too."""

__version__ = "0.2.0"
