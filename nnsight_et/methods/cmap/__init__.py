"""Cmap."""
