"""What the metrics of rows are called in a sentence, and what they are counted in."""

from __future__ import annotations

NAMES = {
    "beam_gain": "what the beam adds",
    "bleu_beam5": "BLEU, beam of 5",
    "bleu_beam5_missing": "100 minus BLEU, beam of 5",
    "bleu_greedy": "BLEU, greedy",
    "bleu_greedy_missing": "100 minus BLEU, greedy",
    "greedy_speedup": "greedy against its own beam",
    "mode_mass": "probability of its best translation",
    "mode_odds": "odds of its best translation",
    "mode_odds_tenth": "a tenth of these odds",
    "speedup_over_teacher_beam5": "speed, against the teacher's beam",
    "speedup_over_teacher_greedy": "speed, against the teacher's greedy decoding",
    "teacher_agreement": "same answer as its teacher",
    "test_ece": "calibration error",
    "test_error_rate": "test error rate",
    "test_error_rate_bias_train": "test error rate, biases set on the training set",
    "test_errors": "test errors",
    "test_errors_bias_train": "test errors, bias set on the training set",
    "test_errors_on_3": "test errors on threes",
    "test_errors_on_3_bias_train": "test errors on threes, bias set on the training set",
    "test_nll": "negative log-likelihood",
    "test_perplexity": "perplexity on the references",
    "train_accuracy": "right on the training data",
}
# From 0 to 1 in rows, and told in per cent.
SHARES = ("test_error_rate", "train_accuracy", "teacher_agreement")
# Of metrics that are not counted, nothing.
UNITS = {
    "beam_gain": "BLEU from the beam",
    "bleu_beam5": "BLEU, beam of 5",
    "bleu_beam5_missing": "BLEU",
    "bleu_greedy": "BLEU, greedy",
    "bleu_greedy_missing": "BLEU",
    "greedy_speedup": "times as fast",
    "mode_mass": "probability",
    "mode_odds": "odds",
    "mode_odds_tenth": "odds",
    "speedup_over_teacher_beam5": "times as fast",
    "speedup_over_teacher_greedy": "times as fast",
    "test_errors": "test errors",
    "test_errors_bias_train": "test errors",
    "test_errors_on_3": "test errors on threes",
    "test_errors_on_3_bias_train": "test errors on threes",
    "test_nll": "nats",
    "test_perplexity": "perplexity",
}


def uncorrected(metric: str) -> str:
    """The metric that is measured again after a correction of the biases, or the metric itself.

    >>> uncorrected("test_errors_bias_train"), uncorrected("test_errors")
    ('test_errors', 'test_errors')
    """
    return metric.removesuffix("_bias_train").removesuffix("_bias_test")


def called(metric: str) -> str:
    """The name of a metric in words, and of one that has none its own.

    >>> called("bleu_greedy"), called("map_distance_group3")
    ('BLEU, greedy', 'map_distance_group3')
    """
    return NAMES.get(metric, metric)
