"""main_SSW.py with three epochs of which the second is the best, as a command for run_together."""

from unittest.mock import patch

import main_SSW
from utils.training.classification import Classification

ACCURACIES = (0.25, 0.75, 0.5)  # that the validation clips are said to have, epoch by epoch


def main(argv: list[str]) -> dict:
    measure, accuracies = Classification.evaluate_held_out, iter(ACCURACIES)

    def steered(task: Classification) -> dict[str, float]:
        return {**measure(task), "accuracy": next(accuracies)}

    with patch.object(Classification, "evaluate_held_out", steered):
        return main_SSW.main([*argv, "--epochs", str(len(ACCURACIES))])
