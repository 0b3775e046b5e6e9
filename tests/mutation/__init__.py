"""The tests tested: faults put into a copy of the package, which the run-time self-check and the tests must find.

`python -m tests.mutation` runs all of it and writes docs/mutation.md.
"""
