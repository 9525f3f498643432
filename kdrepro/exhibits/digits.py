"""Digits with the logits that a net gives them: checked, softened, and drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from scipy.special import softmax

from kdrepro import checks
from kdrepro.exhibits.charts import BLUE, GREEN, STYLE, Chart, new_chart


@dataclass(frozen=True)
class Digits:
    """Images (N, H, W) in [0, 1], logits (N, K), labels (N,)."""

    images: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


def _array(name: str, value: Any) -> np.ndarray:
    """The value as an array of numbers; tensors are taken off their device without importing their library."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got {type(value).__name__}, expected an array of numbers") from error


def checked_digits(images: Any, logits: Any, labels: Any, *, temperature: float) -> Digits:
    """The arguments as arrays that fit together; ValueError or TypeError that names the one that does not."""
    checks.positive("temperature", temperature)
    pixels, scores, classes = _array("images", images), _array("logits", logits), _array("labels", labels)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(
            f"logits: got shape {scores.shape}, expected finite numbers of shape (digits, classes)"
        )
    count, number_of_classes = scores.shape
    if pixels.ndim == 2 and math.isqrt(pixels.shape[1]) ** 2 == pixels.shape[1]:
        pixels = pixels.reshape(len(pixels), math.isqrt(pixels.shape[1]), -1)
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]
    if pixels.ndim != 3 or len(pixels) != count or not np.isfinite(pixels).all():
        raise ValueError(f"images: got shape {pixels.shape}, expected {count} finite images of one channel")
    whole = classes.shape == (count,) and np.isfinite(classes).all() and (classes == np.floor(classes)).all()
    if not whole or classes.min() < 0 or classes.max() >= number_of_classes:
        raise ValueError(
            f"labels: got {classes.tolist()}, expected {count} classes from 0 to {number_of_classes - 1}"
        )
    return Digits(pixels, scores, classes.astype(int))


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(logits / temperature) along the last axis.

    >>> softened(np.array([2.0, 0.0]), 1e6).round(3).tolist()
    [0.5, 0.5]
    """
    return np.asarray(softmax(logits / temperature, axis=-1))


def dark_knowledge(images: object, logits: object, labels: object, temperature: float) -> Chart:
    """Digits beside the probabilities a net gives to the classes, at temperature 1 and at `temperature`.

    images (N, H, W), (N, 1, H, W) or (N, H·W) in [0, 1]; logits (N, K); labels (N,). The bar of the label is green.

    Raises ValueError or TypeError that names the argument whose shape, value or kind does not fit.
    """
    digits = checked_digits(images, logits, labels, temperature=temperature)
    count, classes = digits.logits.shape
    with matplotlib.rc_context(STYLE):
        chart = new_chart(10.0, 0.9 + 1.5 * count)
        grid = chart.subplots(count, 3, squeeze=False, width_ratios=[1, 3, 3])
        for place in range(count):
            picture = grid[place, 0]
            picture.imshow(digits.images[place], cmap="gray_r", vmin=0, vmax=1)
            picture.set_xticks([])
            picture.set_yticks([])
            picture.spines[:].set_visible(False)
            picture.set_ylabel(
                f"label {digits.labels[place]}", rotation=0, ha="right", va="center", labelpad=8
            )
            for axes, at in ((grid[place, 1], 1.0), (grid[place, 2], temperature)):
                shares = softened(digits.logits[place], at)
                colours = [GREEN if each == digits.labels[place] else BLUE for each in range(classes)]
                bars = axes.bar(range(classes), shares, color=colours)
                words = [f"{share:.0%}" if share >= 0.005 else "" for share in shares]
                axes.bar_label(bars, words, fontsize=9, padding=1)
                axes.set_ylim(0, 1.18)
                axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
                axes.set_xticks(range(classes))
                if not place:
                    axes.set_title(f"probabilities at T = {at:g}")
                if place == count - 1:
                    axes.set_xlabel("class")
                else:
                    axes.set_xticklabels([])
    return chart
