"""The methods as a manifest writes them: one file and one class per method.

A method's class says which experiments and models it uses, and checks what its types cannot say. To add one: its
class here, and the class in the union of experiments.py.
"""
