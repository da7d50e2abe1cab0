"""A simulated marketplace with known click, cart and purchase probabilities, as an events log."""
