"""From a picture to detections: preprocess, detector, suppression."""
