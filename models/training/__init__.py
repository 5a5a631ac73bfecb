"""Training of models on top of backbones that have seen other pictures before."""
