"""What is quantized, where, and how: sites, formats at them (a plan), and a plan applied to a network."""

from lpcaffe.quant.apply import Quantized, apply_plan, check_full_precision, quantize
from lpcaffe.quant.error_stats import ErrorStats
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site, sites

__all__ = [
    "BitPlan",
    "ErrorStats",
    "LayerPlan",
    "Policy",
    "Quantized",
    "Site",
    "apply_plan",
    "check_full_precision",
    "quantize",
    "sites",
]
