"""Ids to vectors: tables, sharding, transfer, freezing.

The only room that knows torchrec.distributed.
"""
