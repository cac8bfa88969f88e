"""The release. setuptools reads it from here, too."""

VERSION = "0.2.0"
