"""Results and cells on disk, what they say of themselves, and scores and circuits read from files."""
