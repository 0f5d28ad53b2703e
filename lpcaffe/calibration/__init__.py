"""Statistics of tensors over calibration data."""

from lpcaffe.calibration.calibrate import BATCH, Progress, calibrate, warn_of_range
from lpcaffe.calibration.calibration import Calibration
from lpcaffe.calibration.finite import finite_weights
from lpcaffe.calibration.stats import TensorStats

__all__ = ["BATCH", "Calibration", "Progress", "TensorStats", "calibrate", "finite_weights", "warn_of_range"]
