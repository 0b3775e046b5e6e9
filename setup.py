"""The packages of the wheel: those that are found, and cli/, which pyproject.toml installs under another name."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["nnsight_et*"]), "nnsight_et_cli"])
