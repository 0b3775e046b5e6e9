"""Activation patching."""
