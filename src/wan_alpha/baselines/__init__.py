"""Systems to compare, behind two interfaces: a codec reconstructs RGBA clips, a generator makes them from text.

To add one: a file here with a class that has the methods of `Codec` or `Generator`, and an entry in `registry.py`.
"""

from wan_alpha.baselines.interface import Codec, Generator, Sampling, UnknownSystemError

__all__ = ["Codec", "Generator", "Sampling", "UnknownSystemError"]
