"""Circuits that no run finds: read from files, or published."""
