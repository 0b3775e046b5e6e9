"""Models: their names, their parts, and how they are loaded."""
