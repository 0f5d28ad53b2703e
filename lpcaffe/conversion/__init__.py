"""Files made of networks: the prototxt (`rewrite`), caffemodel (`weights`) and integer codes (`codes`) of a plan, a
network and its weights (`write_net`), and a training network turned into a deploy one (`deploy`).
"""

from lpcaffe.conversion.codes import stage_codes, unpack, write_codes
from lpcaffe.conversion.deploy import deploy, deploy_file
from lpcaffe.conversion.rewrite import rewrite
from lpcaffe.conversion.weights import check_weights_size, stage_quantized, write_weights
from lpcaffe.conversion.write_net import write_net
from lpcaffe.dialects.adaption_read import extract

__all__ = [
    "check_weights_size",
    "deploy",
    "deploy_file",
    "extract",
    "rewrite",
    "stage_codes",
    "stage_quantized",
    "unpack",
    "write_codes",
    "write_net",
    "write_weights",
]
