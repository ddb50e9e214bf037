"""Continuing a text: one token after another, from the keys and values of those before."""

from __future__ import annotations

import secrets
from typing import Any, Optional, Union

import numpy as np
import paddle
from paddle import Tensor, nn

from paddlenlp.nn.cache import KVCache
from paddlenlp.parallel.objects import from_first
from paddlenlp.utils.errors import UsageError


class GenerationMixin(nn.Layer):
    """Adds `generate` to a causal language model."""

    config: Any

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Logits [b, vocab] of the token after `input_ids` [b, s], which are read after what `cache` holds.

        The same on all ranks that hold parts of the model.
        """
        raise NotImplementedError

    @paddle.no_grad()
    def generate(
        self,
        input_ids: Union[Tensor, np.ndarray],
        max_new_tokens: int = 64,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        eos_token_id: Optional[int] = None,
        seed: Optional[int] = None,
    ) -> Tensor:
        """`input_ids` continued.

        The model runs as in evaluation, and its mode is put back. Sampling draws from a generator of its own, so that
        the random state of a training run is left alone. In a job of several processes all call it together with the
        same arguments, and all get the same text.

        Args:
            input_ids: int64 [b, s], rows of equal length.
            max_new_tokens: the most tokens to add.
            do_sample: draw each token instead of taking the most likely.
            temperature: logits are divided by it before drawing.
            top_p: draw from the smallest set of most likely tokens whose probabilities reach it.
            eos_token_id: a row that has produced it is continued with it; when all have, the text ends.
            seed: of the draws; unpredictable if None, but the same on all ranks.

        Returns:
            int64 [b, s + n] with n <= max_new_tokens.

        Raises:
            UsageError: a setting is out of range, or there is nothing to continue.
        """
        ids = input_ids if isinstance(input_ids, Tensor) else paddle.to_tensor(input_ids, dtype="int64")
        _check(ids, max_new_tokens, temperature, top_p)
        choose = _Chooser(temperature, top_p, _agreed(seed)) if do_sample else _most_likely
        training = self.training
        self.eval()
        try:
            return self._continue(ids, KVCache(self.config.num_hidden_layers), max_new_tokens, choose, eos_token_id)
        finally:
            if training:
                self.train()

    def _continue(self, ids: Tensor, cache: Any, count: int, choose: Any, eos: Optional[int]) -> Tensor:
        texts, unread = ids.numpy(), ids
        done = np.zeros(len(texts), bool)
        for _ in range(count):
            chosen = choose(self.next_logits(unread, cache).astype("float32").numpy())
            chosen = chosen if eos is None else np.where(done, eos, chosen)
            texts = np.concatenate([texts, chosen[:, None]], 1)
            done |= chosen == eos
            if done.all():
                break
            unread = paddle.to_tensor(chosen[:, None])
        return paddle.to_tensor(texts)


def _agreed(seed: Optional[int]) -> int:
    """`seed`, or one that the first process of the job makes up."""
    return from_first(secrets.randbits(63)) if seed is None else seed


def _check(ids: Tensor, count: int, temperature: float, top_p: float) -> None:
    if ids.ndim != 2 or 0 in ids.shape:
        raise UsageError(
            f"generate continues token ids of shape [rows, tokens], at least one of each; found {list(ids.shape)}"
        )
    if count < 1:
        raise UsageError(f"max_new_tokens={count} must be at least 1")
    if temperature <= 0:
        raise UsageError(f"temperature={temperature} must be above 0; for the most likely tokens set do_sample=False")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p={top_p} must be above 0 and at most 1")


def _most_likely(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(-1).astype(np.int64)


class _Chooser:
    """Draws a token for each row of logits [b, vocab]: nucleus sampling (arXiv:1904.09751) at a temperature."""

    def __init__(self, temperature: float, top_p: float, seed: Optional[int]) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        scores = logits.astype(np.float64) / self._temperature
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return np.array([self._draw(row) for row in p], np.int64)

    def _draw(self, p: np.ndarray) -> int:
        order = np.argsort(-p, kind="stable")
        reached = np.cumsum(p[order])
        kept = order[: 1 + int(np.searchsorted(reached, self._top_p * reached[-1]))]
        return int(self._random.choice(kept, p=p[kept] / p[kept].sum()))
