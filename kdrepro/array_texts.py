"""Small arrays as text, so that a row can hold a picture or a map: 8 bits a number, which is enough to look at."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np


def written(arrays: np.ndarray) -> list[str]:
    """Write each of N arrays (N, *shape) as a text: its shape, what 0 and 255 stand for, and its bytes in base64.

    Raises `ValueError` for no numbers, or some that are not finite.

    >>> written(np.array([[0.0, 0.5, 1.0]]))
    ['3 0 1 AID/']
    """
    values = np.asarray(arrays, dtype=float)
    if values.ndim < 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"arrays: got shape {values.shape}, expected finite numbers (N, *shape), at least one"
        )
    texts = []
    for each in values:
        bounds = each.min(), each.max()
        words = [f"{bound:.6g}" for bound in bounds]
        # Far from 0 six digits may say less than a step.
        if any(
            abs(float(word) - bound) > np.ptp(each) / 510 > 0
            for word, bound in zip(words, bounds, strict=True)
        ):
            words = [repr(float(bound)) for bound in bounds]
        low, high = map(float, words)
        steps = np.rint(255 * (each - low) / ((high - low) or 1.0)).clip(0, 255).astype(np.uint8)
        shape = "x".join(map(str, each.shape))
        texts.append(f"{shape} {' '.join(words)} {base64.b64encode(steps.tobytes()).decode()}")
    return texts


def read(texts: Sequence[str]) -> np.ndarray:
    """Read what `written` wrote: (N, *shape), right to half of a 255th of what an array spans.

    Raises `ValueError` for no text, or one that is not of that form.

    >>> read(["3 0 1 AID/"]).round(2).tolist()
    [[0.0, 0.5, 1.0]]
    """
    if not texts:
        raise ValueError("texts: got none, expected at least one")
    found = []
    for text in texts:
        try:
            shape, low, high, content = text.split(" ")
            steps = np.frombuffer(base64.b64decode(content, validate=True), dtype=np.uint8)
            sides = tuple(map(int, shape.split("x")))
            found.append(float(low) + (float(high) - float(low)) * steps.reshape(sides) / 255)
        except ValueError as error:
            raise ValueError(
                f"texts: got {text[:40]!r}, expected shape, bounds and bytes ({error})"
            ) from error
    return np.stack(found)
