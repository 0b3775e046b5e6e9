"""The embedded models, how they were made, and planted models whose circuit is known."""
