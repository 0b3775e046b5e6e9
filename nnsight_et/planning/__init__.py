"""From a manifest to the jobs it asks for, and what they cost. Runs no model."""
