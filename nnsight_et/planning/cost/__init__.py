"""What a plan will cost, by formula, before anything is loaded: token-layers, FLOPs, memory. Imports no torch."""
