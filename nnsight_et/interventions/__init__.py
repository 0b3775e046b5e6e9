"""The paper's methods, one a file, each a few lines on top of the engine."""
