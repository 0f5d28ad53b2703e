"""Networks made of others: a plan applied to prototxt (`rewrite`) and caffemodel (`weights`), with how far values moved
(`error`) and the way back (`extract`); and a training network turned into a deploy one (`deploy`).
"""

from lpcaffe.conversion.deploy import deploy, deploy_file
from lpcaffe.conversion.error import ErrorStats
from lpcaffe.conversion.extract import extract, write_net
from lpcaffe.conversion.rewrite import base_net, rewrite
from lpcaffe.conversion.weights import WeightErrors, check_weights_size, stage_weights, write_weights

__all__ = [
    "ErrorStats",
    "WeightErrors",
    "base_net",
    "check_weights_size",
    "deploy",
    "deploy_file",
    "extract",
    "rewrite",
    "stage_weights",
    "write_net",
    "write_weights",
]
