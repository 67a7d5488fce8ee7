"""Avalanche's metrics of given predictions; run by the interpreter that has Avalanche, JSON in, JSON out."""

import json
import sys

import torch
from avalanche.evaluation.metrics.accuracy import Accuracy
from avalanche.evaluation.metrics.forgetting_bwt import BWT
from avalanche.evaluation.metrics.forward_transfer import ForwardTransfer


def main() -> None:
    given = json.load(sys.stdin)
    labels, after = given["labels"], given["after"]  # [T][n], and [T + 1][T][n]: before the first event, after each
    matrix = []
    for row in after:
        accuracies = []
        for said, true in zip(row, labels):
            metric = Accuracy()
            metric.update(torch.tensor(said), torch.tensor(true))
            accuracies.append(metric.result())
        matrix.append(accuracies)
    backward, forward = BWT(), ForwardTransfer()
    for test, untrained in enumerate(matrix[0]):
        forward.update(test, untrained, initial=True)
    for experience, row in enumerate(matrix[1:]):
        for test, accuracy in enumerate(row):
            if test <= experience:
                backward.update(test, accuracy, initial=test == experience)
            if test == experience + 1:
                forward.update(test, accuracy)
    print(json.dumps({"matrix": matrix, "bwt": backward.result(), "fwt": forward.result()}))


if __name__ == "__main__":
    main()
