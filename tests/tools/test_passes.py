"""Networks that look more often than in their training."""

import passes
import pytest
import torch

from digits import pretrained
from studies.perspective.data import perspective


def test_as_often_as_in_training_it_reads_what_its_run_read(digits):
    network, data = pretrained.load("exp_16"), perspective(digits)
    with torch.no_grad():
        right = (network.model(data.test_images).argmax(1) == data.test_labels).double().mean()
    read = passes.read_with_passes(network, data)
    assert network.model.passes == 4
    assert read[3] == pytest.approx(100 * right.item())
    network.model.passes = 1
    with torch.no_grad():
        alone = (network.model(data.test_images).argmax(1) == data.test_labels).double().mean()
    assert read[0] == pytest.approx(100 * alone.item())
    assert read[0] < read[1] < read[3]
