"""Pooling of regions (boxes in an image): ROIPooling (Fast R-CNN) and PSROIPooling (R-FCN)."""

from __future__ import annotations

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, layer, product


def _regions(ops: Ops, x: Array, rois: Array) -> Array:
    """The second bottom as R x 5: image, x1, y1, x2, y2."""
    image, regions = ops.shape(x), ops.shape(rois)
    if len(image) != 4 or len(regions) < 2 or product(regions[1:]) != 5:
        raise NetError(f"expected N x C x H x W and regions R x 5, got {shape_text(image)} and {shape_text(regions)}")
    return rois if len(regions) == 2 else ops.reshape(rois, (0, 5))


@layer("ROIPooling", "roi_pooling_param", bottoms=(2, 2))
def roi_pooling(ops: Ops, p: Message, x: Array, rois: Array) -> Array:
    """Largest value in each of `pooled_h` x `pooled_w` bins of each region (Girshick 2015, section 2.1).

    Corners are scaled, rounded (halves away from zero) and both included. Neighbouring bins overlap where they do not
    end between pixels; a bin outside the image gives 0.
    """
    regions = _regions(ops, x, rois)
    if not p.pooled_h or not p.pooled_w:
        raise NetError(f"roi_pooling_param needs pooled_h and pooled_w of at least 1 (got {p.pooled_h} x {p.pooled_w})")
    return ops.roi_max_pool(x, regions, (p.pooled_h, p.pooled_w), p.spatial_scale)


@layer("PSROIPooling", "psroi_pooling_param", bottoms=(2, 2), numpy_only=True)
def psroi_pooling(ops: Ops, p: Message, x: Array, rois: Array) -> Array:
    """Mean of each of group_size x group_size bins of each region, each bin from channels of its own (R-FCN).

    Corners are rounded before they are scaled, not after, so bins begin and end between pixels and cover every pixel
    that they touch. A bin outside the image gives 0.
    """
    regions = _regions(ops, x, rois)
    if p.output_dim < 1 or p.group_size < 1:
        raise NetError(
            f"psroi_pooling_param needs output_dim and group_size of at least 1 (got {p.output_dim} and {p.group_size})"
        )
    channels = p.output_dim * p.group_size**2
    if ops.shape(x)[1] != channels:
        raise NetError(f"expected output_dim group_size^2 = {channels} channels, got {ops.shape(x)[1]}")
    return ops.roi_average(x, regions, p.group_size, p.spatial_scale)
