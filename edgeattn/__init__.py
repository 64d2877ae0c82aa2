"""edgeattn: from a PyTorch model with attention to a file an edge device runs fast, proven to be the same model."""
