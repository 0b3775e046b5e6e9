"""Results -> tables and figures, as data; and what shows them. Nothing here prints.

overview.py shows what there is before anything has run (and imports no torch), results.py what was found, as tables and
figures. html/ puts both on one page, and html/figure_files.py each in a file for papers.
"""
