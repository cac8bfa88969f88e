"""The version of this release. setuptools reads it from here too."""

__version__ = "0.2.0"
