"""The same interventions by other means, each from the definitions in docs/methods.md, for benchmarks.other_tools."""
