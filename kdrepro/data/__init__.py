"""The papers' data sets as whole tensors, and the batches made of them."""
