"""The methods of rounding that need the weights alone, by the names of :data:`m4c.scheme.METHODS`."""

from collections.abc import Mapping

from m4c.blockwise import Method
from m4c.rounding.hqq import half_quadratic
from m4c.rounding.rtn import round_to_nearest

METHODS: Mapping[str, Method] = {"rtn": round_to_nearest, "hqq": half_quadratic}
"""Rounds rows of a matrix, each for itself."""
