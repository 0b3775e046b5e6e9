"""What the engine costs, measured side by side in one process: ratios to a plain forward pass, never bare seconds."""
