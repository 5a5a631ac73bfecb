"""From a model file to detections; usable without a pipeline.

In this order the files are read best, and import each other in this direction only:

1. `errors.py`, `text.py`, `files.py`, and `boxes/`: arithmetic on boxes.
2. `onnx_header.py` with `onnx_graph.py` and `protobuf.py`: an ONNX file, read without a runtime.
3. `transform.py`: captured pixels to model pixels, and back. `card.py`: what a file leaves open.
4. `image_input.py`, then `families/base.py` and one file per family: outputs to named arrays.
5. `contract.py` and `inspect.py`: file, card and family together.
6. `zoo.py` and `download.py`: from a name to a contract; `runtime.py` runs it.
"""

import os

# From 1.29 on, onnxruntime writes an identifier of the machine below the user's cache folder and
# reports to its vendor, unless this variable is set before its import; its function
# `disable_telemetry_events` comes too late for that. Set here, it holds for every module that
# imports onnxruntime after a module of this package, a user's own stage included.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
