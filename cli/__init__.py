"""The `et` command. Installed as the package nnsight_et_cli; it parses, calls and prints, and decides nothing."""

if __name__ == "cli":
    raise ImportError("the command line's package is nnsight_et_cli; `cli` is only its folder in the repository")

from .app import app

__all__ = ["app"]
