"""How the embedded models are made: `python -m tools.embedded_models.make`. Not part of the package."""
