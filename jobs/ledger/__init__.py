"""The ledger of the daily chain: what ran, on what, with what outcome, and who is at work."""
