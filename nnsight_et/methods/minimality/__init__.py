"""Minimality."""
