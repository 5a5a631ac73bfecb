"""The machinery: frames, processes, sockets, settings. Knows no camera, model or algorithm."""
