"""The reader of cards with each of the candidate remedies against losing the card; without any it is as before."""

import torch
import torch.nn.functional as F

from studies.cards import geometry
from studies.cards.networks import Net_Card_Homography, as_floats

SHORTEST = 0.5  # of a side's nominal length: shorter ones are pulled, too


class Net_Card_Candidate(Net_Card_Homography):
    """`Net_Card_Homography` with candidates, each off by default.

    leash: the weight of a loss on how far the card's corners lie outside of the picture, after every pass.
    identity_weight: the weight of the mean square by which the parameters of a pass differ from the identity's, summed
        over parameters and passes.
    bound: the parameters of a pass differ from the identity's by less than this, by a tanh.
    pass_norm: clip the gradient of the parameters of each pass, of a batch (B, 8), to this norm.
    later_passes: the third and later passes change nothing in the first half of the epochs.
    """

    def __init__(self, passes=1, leash=0.0, identity_weight=0.0, bound=None, pass_norm=None, later_passes=False):
        super().__init__(passes=passes)
        self.leash, self.identity_weight, self.bound = leash, identity_weight, bound
        self.pass_norm, self.later_passes = pass_norm, later_passes
        self.register_buffer("identity", torch.tensor(self.transform_identity), persistent=False)
        self.register_buffer("later", torch.ones(()), persistent=False)
        self.deviations = []  # from the identity, of each pass so far

    def start_epoch(self, epoch, n_epochs):
        self.later.fill_(0.0 if self.later_passes and 2 * epoch <= n_epochs else 1.0)

    def homographies(self, x):
        self.deviations = []
        return super().homographies(x)

    def params_to_homography(self, params):
        deviation = params - self.identity
        if self.bound:
            deviation = self.bound * torch.tanh(deviation / self.bound)
        if self.later_passes and len(self.deviations) >= 2:
            deviation = deviation * self.later
        if self.pass_norm and deviation.requires_grad:
            deviation.register_hook(lambda grad: grad * (self.pass_norm / grad.norm().clamp(min=self.pass_norm)))
        self.deviations.append(deviation)
        return super().params_to_homography(self.identity + deviation)

    def loss(self, images, labels, homographies):
        """Return the mean loss of scenes; the true homographies are not looked at."""
        scenes = as_floats(images)
        after_passes = self.homographies(scenes)
        loss = F.nll_loss(self.classify(geometry.strips(scenes, after_passes[-1])), labels)
        if self.leash:
            loss = loss + self.leash * sum(distance_outside(geometry.card_corners(after)) for after in after_passes)
        if self.identity_weight:
            loss = loss + self.identity_weight * sum(each.square().sum(1).mean() for each in self.deviations)
        self.deviations = []  # a network that keeps them cannot be copied
        return loss


def distance_outside(corners):
    """Return how far the corners (B, 4, 2) of cards, normalised, lie outside of the picture, and sides are too short.

    It is exactly 0 while the corners lie in the picture and no side is shorter than half its nominal length, and grows
    with the square of the distance. So it leads back from where the picture is empty and no other loss has a gradient.
    """
    outside = F.relu(corners.abs() - 1)
    sides = (corners - corners.roll(1, 1)).norm(dim=2)
    height, width = 2 * geometry.CARD_HEIGHT / geometry.SCENE, 2 * geometry.CARD_WIDTH / geometry.SCENE
    too_short = F.relu(SHORTEST - sides / sides.new_tensor([height, width, height, width]))
    return outside.square().sum((1, 2)).clamp(max=100).mean() + too_short.square().sum(1).mean()
