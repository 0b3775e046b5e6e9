"""Results -> tables, as data. Nothing here prints.

overview.py shows what there is before anything has run (and imports no torch), results.py what was found.
"""
