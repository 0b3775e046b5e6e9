"""Inputs as users have them: each made small and offline, run by `et run` and in Python, beside plain transformers.

Nothing here that says what is right uses the package: only transformers, peft, tokenizers and torch.
`python -m tests.real_inputs` runs every case and writes docs/real_inputs.md; with parts of names it runs those and
prints them.
"""
