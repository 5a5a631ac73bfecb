"""The annotated video: the stage, encoders and containers."""
