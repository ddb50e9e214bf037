"""How long the documents of datasets are, drawn into a PNG file with Pillow, which comes with Paddle."""

from __future__ import annotations

from typing import Any, Sequence, Tuple

from paddlenlp.data.dataset_lengths import DocumentLengths
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path

_WIDTH, _LEFT, _RIGHT, _ROW, _HEAD, _GAP = 960, 200, 170, 24, 60, 20
_INK, _GREY, _BAR, _PAPER = "#202020", "#707070", "#3b75af", "#ffffff"


def save_histogram(path: str, datasets: Sequence[Tuple[str, DocumentLengths]]) -> None:
    """Write a picture with the bars of each dataset, one below the other: documents by length, in powers of two.

    Args:
        path: ends in .png.
        datasets: (title, lengths) of each.

    Raises:
        UsageError: another ending, or Pillow is missing.
    """
    if not path.endswith(".png"):
        raise UsageError(f"--histogram is {path!r}; expected a name that ends in .png")
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise UsageError(f"--histogram draws with Pillow: pip install pillow ({error})") from None
    heights = [_HEAD + _ROW * len(lengths.classes()) + _GAP for _, lengths in datasets]
    picture = Image.new("RGB", (_WIDTH, sum(heights)), _PAPER)
    draw, top = ImageDraw.Draw(picture), 0
    for (title, lengths), height in zip(datasets, heights):
        _draw(draw, top, title, lengths)
        top += height
    with atomic_path(path) as partial:
        picture.save(partial, format="PNG")


def _draw(draw: Any, top: int, title: str, lengths: DocumentLengths) -> None:
    head = (
        f"{lengths.documents:,} documents, {lengths.tokens:,} tokens; tokens of a document: {lengths.shortest:,} to "
        f"{lengths.longest:,}, mean {lengths.tokens / lengths.documents:,.1f}, median {lengths.quantile(0.5):,}"
    )
    font = _font()
    # Pillow's own font knows Latin letters only.
    draw.text((_GAP, top + 10), title.encode("ascii", "replace").decode(), _INK, font)
    draw.text((_GAP, top + 32), head, _GREY, font)
    classes = lengths.classes()
    most = max(count for _, _, count in classes)
    for place, (low, high, count) in enumerate(classes):
        y = top + _HEAD + _ROW * place
        label = f"{low:,} to {high:,}" if high > low else f"{low:,}"
        draw.text((_LEFT - 10 - draw.textlength(label, font), y + 4), label, _INK, font)
        right = _LEFT + round((_WIDTH - _LEFT - _RIGHT) * count / most)
        if count:
            draw.rectangle((_LEFT, y + 2, max(right, _LEFT + 1), y + _ROW - 3), _BAR)
        draw.text((right + 8, y + 4), f"{count:,} ({count / lengths.documents:.1%})", _GREY, font)


def _font() -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(13)
    except TypeError:  # before Pillow 10.1 it has one size
        return ImageFont.load_default()


__all__ = ["save_histogram"]
