"""Small things every room uses; nothing here imports Paddle at import time."""
