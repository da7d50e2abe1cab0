"""The daily chain: what a day consists of, what ran, and what may be published."""
