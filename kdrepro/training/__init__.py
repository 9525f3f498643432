"""The parts of the training loop: who is trained, what is tried first, how it is resumed, what is seen of it."""
