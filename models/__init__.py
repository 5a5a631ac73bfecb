"""From a model file to boxes; usable without a pipeline."""
