"""lpcaffe: released Caffe networks in fixed-point arithmetic, without Caffe, every bit proved."""

__version__ = "0.1.0.dev0"
