"""The exact engine under every method: capture, one-token pass, suffix pass, and the reference that defines them.

A change at (layer, position) reaches only higher layers at that position and later positions, so everything a method
asks can be recomputed from one captured base run. All functions here open nnsight traces; call them inside a session.
"""
