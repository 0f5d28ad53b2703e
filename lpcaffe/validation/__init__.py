"""Proof that a low-precision network is what it should be, and how good it is."""

from lpcaffe.validation.comparison import Comparison, OutputAgreement, compare
from lpcaffe.validation.rounding import BlobCheck, check_rounding
from lpcaffe.validation.stages import Stage, check_formats, is_plain, matching_base, stages
from lpcaffe.validation.validate import ValidationReport, validate
from lpcaffe.validation.verify import VerifyReport, verify

__all__ = [
    "BlobCheck",
    "Comparison",
    "OutputAgreement",
    "Stage",
    "ValidationReport",
    "VerifyReport",
    "check_formats",
    "check_rounding",
    "compare",
    "is_plain",
    "matching_base",
    "stages",
    "validate",
    "verify",
]
