"""Denoisers for headless use."""
