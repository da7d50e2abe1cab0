"""Raw logs to day partitions to examples to batches; no torch.distributed here."""
