"""Training: from a backbone and labelled pictures to a model that runs."""
