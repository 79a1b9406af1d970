"""Synthetic data for trying things out: no download."""
