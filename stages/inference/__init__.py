"""From an image to detections: preprocess, detector, non-maximum suppression."""
