"""The NDIF server itself (PyPI `ndif`) on this machine's CPU, for tests: `with RealNdif.start(models) as server`."""
