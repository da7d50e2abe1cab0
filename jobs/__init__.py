"""One verb a module, the one training loop, torchx components, the chain."""
