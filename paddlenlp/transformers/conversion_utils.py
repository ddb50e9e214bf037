"""From stored tensors to the parameters of a model, whatever the names and the form they are stored in.

Nothing here names a family. A model's `hf_names` say which names differ; a parameter itself says whether its matrix is
transposed (`transposed`), what it is fused of or a part of (`fusion`), and which share of it this rank holds
(`tp_layout`).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from paddlenlp.parallel.holdings import at_hand, lines_everywhere, names_everywhere
from paddlenlp.parallel.random import initialise
from paddlenlp.transformers.configuration_utils import CONFIG_NAME, read_json
from paddlenlp.transformers.weight_reading import read_share
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger
from paddlenlp.utils.tensor_files import TensorFiles

DTYPE_CODES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Tables that old checkpoints stored though they follow from the configuration: rotary frequencies and causal masks.
STRAY = re.compile(r"(\brotary_(pos_)?emb\.inv_freq|\battn\.(masked_)?bias|\battention\.masked_bias)$")
# Architectures that end without a head over the vocabulary, and what they have in its place.
HEADLESS = re.compile(r"(?<!LMHead)Model$|For(Sequence|Token)Classification$")
OTHER_HEADS = re.compile(r"^(score|classifier|v_head|value_head)\.")
PICKLES = ("*.bin", "*.pdparams", "*.pt", "*.pth", "*.ckpt")


def hf_name(model: Any, name: str) -> str:
    """The Hugging Face name of the parameter `name` of a model, or of a model class."""
    return _renamed(name, model.hf_names)


def _renamed(name: str, pairs: List[Tuple[str, str]]) -> str:
    for ours, theirs in pairs:
        name = re.sub(ours, theirs, name)
    return name


class StoredWeights(TensorFiles):
    """The weights of a model folder: `{stem}.safetensors`, or the shards that its index names.

    Raises:
        UsageError: there are no such files, or only pickled ones, or files are missing or damaged.
    """

    def __init__(self, folder: Union[str, Path], stem: str = "model") -> None:
        _refuse_pickles(Path(folder), stem)
        super().__init__(folder, stem)
        odd = [f"{name} ({self.dtype(name)})" for name in self.keys() if not self._readable(name)]
        if odd:
            raise UsageError(
                f"{folder}: weights must be stored as {', '.join(DTYPE_CODES)}; found {', '.join(odd[:5])}"
                f"{f' and {len(odd) - 5} more' if len(odd) > 5 else ''}. Quantised weights are not read."
            )

    def _readable(self, name: str) -> bool:
        return self.dtype(name) in DTYPE_CODES or STRAY.search(name) is not None

    def stored_dtype(self) -> str:
        """The dtype in which most of the values are stored."""
        counts: Counter = Counter()
        for name in self.keys():
            if self.dtype(name) in DTYPE_CODES:
                counts[DTYPE_CODES[self.dtype(name)]] += int(np.prod(self.shape(name)))
        return max(counts, key=counts.__getitem__, default="float32")

    def is_headless(self, model: Any) -> bool:
        """Whether config.json names a model that does not end in a head over the vocabulary: a base or reward model.

        One family calls models with a head so too: what `model` is called in the Hugging Face format never counts.
        """
        path = self.folder / CONFIG_NAME
        names = read_json(path).get("architectures") if path.is_file() else None
        own = model.config.to_hf_dict().get("architectures") or ()
        return any(HEADLESS.search(name) and name not in own for name in names or ())

    def out_first(self, model: Any) -> bool:
        """Whether matrices are stored [out, in], as the Hugging Face format has them.

        The header says so ("format": "pt", or "np" for the native one); where it says neither, the names do: those of
        the whole model, so that all ranks that share one decide alike.
        """
        form = self.metadata.get("format")
        if form in ("pt", "np"):
            return form == "pt"
        ours = names_everywhere(name for name, _ in model.named_parameters())
        native = sum(name in self for name in ours)
        return sum(hf_name(model, name) in self for name in ours) >= native


class Source(NamedTuple):
    """The stored tensors one parameter is made of, the shape each must have, and how the parameter is made of them."""

    names: List[str]
    shapes: List[Tuple[int, ...]]
    part: Optional[int] = None


def load_weights(model: Any, folder: Union[str, Path, StoredWeights]) -> None:
    """Set every parameter of `model` from the weights in `folder`; one tensor at a time is in memory beside the model.

    Every rank that has a part of the model calls this and reads its own; the tensors of other ranks' stages are not
    left over. Everything is checked before the first parameter is changed.

    Raises:
        UsageError: tensors are missing, left over, or of another shape; all are listed.
    """
    stored = folder if isinstance(folder, StoredWeights) else StoredWeights(folder)
    out_first = stored.out_first(model)
    params = dict(model.named_parameters())
    plan, new_head = plan_weights(model, stored, out_first)
    for names in at_hand(model):
        for name in names:
            if name in plan:
                _set(params[name], plan[name], stored, out_first)
    if new_head:
        initialise(model, model.config.initializer_range, new_head)
    form = "matrices [out, in]" if out_first else "matrices [in, out]"
    logger.info("Read %d parameters (stored as %s, %s) from %s", len(plan), stored.stored_dtype(), form, stored.folder)


def plan_weights(model: Any, stored: StoredWeights, out_first: bool) -> Tuple[Dict[str, Source], List[str]]:
    """Where each parameter of `model` comes from, and the parameters of a head that is not stored.

    Raises:
        UsageError: as `load_weights`.
    """
    found = {name: _find(model, name, param, stored, out_first) for name, param in model.named_parameters()}
    new_head = _new_head(model, found, stored)
    _check(model, {name: source for name, source in found.items() if name not in new_head}, stored)
    return {name: source for name, source in found.items() if source is not None}, new_head


def _new_head(model: Any, plan: Dict[str, Optional[Source]], stored: StoredWeights) -> List[str]:
    """The parameters of the head where the stored model has none over the vocabulary: they start from random values."""
    if not stored.is_headless(model):
        return []
    names = [name for name, source in plan.items() if source is None and name.startswith(f"{model.head_name}.")]
    if names:
        logger.warning("%s holds a model without a head over the vocabulary: the head starts anew", stored.folder)
    return names


def spellings(model: Any, name: str) -> List[str]:
    """The names a parameter may be stored under: ours, theirs, PaddleNLP's, and each without its prefix where ours has
    one."""
    names = [name, hf_name(model, name)]
    if model.other_names:
        names.append(_renamed(name, model.other_names))
    if name.startswith(f"{model.base_model_prefix}."):
        names += [spelling.partition(".")[2] for spelling in names]
    return names


def _stored_name(model: Any, name: str, stored: StoredWeights) -> Optional[str]:
    return next((spelling for spelling in spellings(model, name) if spelling in stored), None)


def _find(model: Any, name: str, param: Any, stored: StoredWeights, out_first: bool) -> Optional[Source]:
    """Where `param` comes from: the tensor itself, the parts it is fused of, or the fused tensor it is a part of."""
    flip = -1 if out_first and getattr(param, "transposed", False) else 1
    shape = tuple(getattr(param, "whole_shape", param.shape))
    found = _stored_name(model, name, stored)
    if found is not None:
        return Source([found], [shape[::flip]])
    fusion = getattr(param, "fusion", None)
    if fusion is None:
        return None
    wanted = fusion.part_names(name) or []
    parts = [found for found in (_stored_name(model, part, stored) for part in wanted) if found]
    if wanted and len(parts) == len(wanted):
        return Source(parts, [(*shape[:-1], size)[::flip] for size in fusion.sizes])
    whole = fusion.whole_name(name)
    found = _stored_name(model, whole[0], stored) if whole else None
    return Source([found], [(*shape[:-1], sum(fusion.sizes))[::flip]], whole[1]) if found else None


def _set(param: Any, source: Source, stored: StoredWeights, out_first: bool) -> None:
    flipped = out_first and bool(getattr(param, "transposed", False))
    read_share(param, source.names, source.part, stored, flipped)


def whole_value(param: Any, source: Source, stored: StoredWeights, out_first: bool) -> Tuple[np.ndarray, str]:
    """The whole of a parameter as it is stored, in the shape that the model has it, and the code of its type.

    float32 where it is fused of parts of different types.
    """
    arrays = [stored.raw(name) for name in source.names]
    codes = {stored.dtype(name) for name in source.names}
    if len(codes) > 1:
        arrays = [stored.read(name, "float32") for name in source.names]
    if out_first and getattr(param, "transposed", False):
        arrays = [array.T for array in arrays]
    if source.part is not None:
        array = param.fusion.separate(arrays[0])[source.part]
    else:
        array = arrays[0] if len(arrays) == 1 else param.fusion.fuse(arrays)
    return array, codes.pop() if len(codes) == 1 else "F32"


def _check(model: Any, plan: Dict[str, Optional[Source]], stored: StoredWeights) -> None:
    """Refuse what does not fit, on all ranks that share the model: what fits is known when all have looked."""
    missing = [f"{name} (Hugging Face name: {hf_name(model, name)})" for name, source in plan.items() if source is None]
    used = names_everywhere(name for source in plan.values() if source for name in source.names)
    left = [
        f"{name} {list(stored.shape(name))}"
        for name in stored
        if name not in used and not _left_over(model, name, stored)
    ]
    lists = [lines_everywhere(missing), left, lines_everywhere(_misshapen(model, plan, stored))]
    groups = zip(("missing", "not part of the model", "of another shape"), lists)
    listed = [f"{len(lines)} {what}:\n" + "".join(f"    {line}\n" for line in lines) for what, lines in groups if lines]
    if listed:
        raise UsageError(
            f"{stored.folder}: the weights do not fit {type(model).__name__} with this configuration.\n  "
            + "  ".join(listed)
            + "Give the configuration the weights were saved with, or the weights of this configuration."
        )


def _misshapen(model: Any, plan: Dict[str, Optional[Source]], stored: StoredWeights) -> Iterator[str]:
    for name, source in plan.items():
        for stored_name, expected in zip(source.names, source.shapes) if source else ():
            found = stored.shape(stored_name)
            if found != tuple(expected):
                also = "" if stored_name == name else f" (stored as {stored_name})"
                hint = _hint(model, stored, found, tuple(expected))
                yield f"{name}{also}: stored {list(found)}, the model has {list(expected)}{hint}"


def _hint(model: Any, stored: StoredWeights, found: Tuple[int, ...], expected: Tuple[int, ...]) -> str:
    """Says which vocabulary is stored, where only that axis differs; or that a matrix is stored transposed."""
    if len(found) != len(expected):
        return ""
    if found == expected[::-1]:
        return f"; that is its transpose: the header of the files says format={stored.metadata.get('format')!r}"
    axes = [axis for axis in range(len(found)) if found[axis] != expected[axis]]
    vocab = model.config.get("vocab_size")
    if len(axes) != 1 or expected[axes[0]] != vocab:
        return ""
    return f"; the configuration asks for vocab_size={vocab}, stored are {found[axes[0]]}; vocabularies are not resized"


def _left_over(model: Any, name: str, stored: StoredWeights) -> bool:
    """Whether a stored tensor that the model does not read is known, and no mistake."""
    known = STRAY.search(name) is not None or model.is_spare(name) or _is_tied_head(model, name)
    return known or (OTHER_HEADS.search(name) is not None and stored.is_headless(model))


def _is_tied_head(model: Any, name: str) -> bool:
    """Whether a stored tensor is a second copy of the tied token embedding."""
    return bool(model.config.tie_word_embeddings) and name.endswith(("lm_head.weight", "lm_head.decoder_weight"))


def _refuse_pickles(folder: Path, stem: str) -> None:
    if any(folder.glob(f"{stem}*.safetensors*")):
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UsageError(
            f"{folder}: the weights are pickled ({', '.join(pickles[:5])}). They are not read: such a file can run "
            "any program. Convert them to safetensors where you trust them: torch weights with "
            "transformers' save_pretrained, Paddle weights with safetensors.numpy.save_file"
        )
