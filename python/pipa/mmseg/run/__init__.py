"""Reading configs; training, testing and predicting with them."""
