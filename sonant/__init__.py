"""Sonant gives any language model ears and a voice."""

__version__ = "0.1.0"
