"""PaddleNLP-style pretraining of large language models. Importing this package does not import Paddle."""

from __future__ import annotations

__version__ = "3.0.0"
