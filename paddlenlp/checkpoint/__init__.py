"""Checkpoints on disk: folders written whole or not at all, verified by hash; tensors and JSON, no model, no ranks."""
