"""Files in, tensors out: the datasets and their front ends. Nothing here knows a model."""
