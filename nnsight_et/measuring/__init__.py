"""How a job of each method is cut into cells, and its cells put together into a result. One file per method."""
