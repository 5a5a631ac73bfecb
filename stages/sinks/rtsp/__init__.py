"""The annotated streams, served again over RTSP."""
