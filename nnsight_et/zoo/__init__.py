"""The embedded models, and models written by hand whose circuit is known."""
