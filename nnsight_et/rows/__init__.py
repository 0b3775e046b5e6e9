"""Rows of data files, and which of their columns make a pair of prompts."""
