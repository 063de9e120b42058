"""Networks that learn from what is no digit and from scenes without a card, too: to be unsure.

They are taught to give all ten digits the same probability there. This is outlier exposure (Hendrycks et al., arXiv
1812.04606).
"""

import torch.nn.functional as F
from torch import nn

from models import Net_CoordConv_Homography
from studies.cards import geometry
from studies.cards.networks import Net_Card_Homography, as_floats
from studies.pictures import NO_DIGIT


class Net_Unsure(Net_CoordConv_Homography):
    """`Net_CoordConv_Homography` that is taught to be unsure of what is no digit.

    Its classifier has twice as many channels and units: the study's, with 20 channels and 50 units, reads drawings at
    the expense of MNIST.
    """

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 40, 5)
        self.fc1, self.fc2 = nn.Linear(2 * self.fc1.in_features, 100), nn.Linear(100, 10)

    def loss(self, images, labels):
        """Return the mean loss; images with the label `NO_DIGIT` have the cross-entropy to the uniform distribution."""
        scores = self(images)
        is_digit = labels != NO_DIGIT
        digits = F.nll_loss(scores, labels.clamp(max=9), reduction="none")
        return digits.where(is_digit, -scores.mean(1)).mean()


class Net_Card_Unsure(Net_Card_Homography):
    """`Net_Card_Homography` that is taught to be unsure of the digits in scenes without a card."""

    def loss(self, images, labels, homographies):
        """Return the mean loss of scenes; those whose labels are `NO_DIGIT` teach the classifier alone."""
        scenes, corners = as_floats(images), geometry.card_corners(homographies)
        has_card = labels[:, 0] != NO_DIGIT
        after_passes = self.homographies(scenes)
        last = after_passes[-1].where(has_card[:, None, None], after_passes[-1].detach())
        scores = self.classify(geometry.strips(scenes, last))
        loss = F.nll_loss(scores, labels.clamp(max=9), reduction="none").mean(1)
        for after in after_passes:
            misses = F.smooth_l1_loss(geometry.card_corners(after), corners, beta=0.1, reduction="none")
            loss = loss + self.taught_corners * misses.mean((1, 2))
        return loss.where(has_card, -scores.mean((1, 2))).mean()
