"""Tasks: prompts with named positions, and the pairs of them that interventions need."""
