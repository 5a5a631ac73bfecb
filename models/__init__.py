"""From a model file to boxes; usable without a pipeline."""

import os

# From 1.29 on, onnxruntime writes an identifier of the machine below the user's cache folder and
# reports to its vendor's collector, unless this variable is set before it is imported; its function
# `disable_telemetry_events` comes too late for that. The variable is set here, so that it holds for
# whichever module imports onnxruntime, a stage of the user's own too.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
