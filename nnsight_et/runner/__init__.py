"""A plan's jobs in their order, and what is checked before the first of them."""
