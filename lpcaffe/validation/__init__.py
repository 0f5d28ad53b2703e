"""Proof that a low-precision network is what it should be, and how good it is."""

from lpcaffe.validation.comparison import Comparison, OutputAgreement, compare
from lpcaffe.validation.pairs import LayerPair, check_formats, layer_pairs, matching_float_net, read_quant_net
from lpcaffe.validation.rounding import BlobCheck, check_rounding
from lpcaffe.validation.validate import ValidationReport, validate
from lpcaffe.validation.verify import VerifyReport, verify

__all__ = [
    "BlobCheck",
    "Comparison",
    "LayerPair",
    "OutputAgreement",
    "ValidationReport",
    "VerifyReport",
    "check_formats",
    "check_rounding",
    "compare",
    "layer_pairs",
    "matching_float_net",
    "read_quant_net",
    "validate",
    "verify",
]
