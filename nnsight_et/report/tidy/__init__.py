"""Results -> long tables, a measured value per row: what notebooks, plots and comparisons of runs start from.

metrics.py has the values of whole experiments, heads.py those of single heads, examples.py those of single examples.
"""
