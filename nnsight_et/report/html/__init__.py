"""A study -> report.html: one file that needs nothing else, in light and dark, on screens and on paper.

page.py puts it together; drawing.py turns figures into inline SVG, whose colours are the style sheet's.
"""

from nnsight_et.report.html.page import REPORT, report_html

__all__ = ["REPORT", "report_html"]
