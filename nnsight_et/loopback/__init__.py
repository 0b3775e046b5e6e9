"""An NDIF server for one machine: nnsight 0.8's protocol on 127.0.0.1, in a process of its own, for --backend simulate.

`handle.Loopback` starts and stops it. The server's own files import nothing of this package and run where it cannot be
imported, so that code which was not shipped with a request is missed, as it is on NDIF. Every job is trusted.
"""

from nnsight_et.loopback.handle import Loopback

__all__ = ["Loopback"]
