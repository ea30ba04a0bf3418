"""m4c: a compiler and export toolchain for mobile foundation models."""

__version__ = "0.1.0"
