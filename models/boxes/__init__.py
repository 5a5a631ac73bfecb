"""Arithmetic on boxes; numpy and OpenCV only.

forms                     xyxy, cxcywh, xywh, yxyx
iou, rotated              overlaps of upright and rotated boxes
nms                       one box for each object, by one of the methods in suppress, soft, fusion
anchors, kmeans           boxes and points that outputs are relative to
offsets, distances, grids codings of boxes relative to those
masks, polygons           masks as COCO writes them
"""
