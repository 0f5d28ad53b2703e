"""A plan applied: the prototxt (`rewrite`), the caffemodel (`weights`), and how far values moved (`error`)."""

from lpcaffe.conversion.error import RoundingError
from lpcaffe.conversion.rewrite import base_net, rewrite
from lpcaffe.conversion.weights import WeightErrors, write_weights

__all__ = ["RoundingError", "WeightErrors", "base_net", "rewrite", "write_weights"]
