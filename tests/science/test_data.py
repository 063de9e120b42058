"""Images in memory: normalised as torchvision does it, and in an order that is a function of seed and epoch."""

import gzip
import shutil

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets, transforms

from stn import data


def test_mnist_is_what_torchvision_reads_and_normalises(archives, tmp_path):
    """It unpacks the archives and needs no network for that."""
    shutil.copytree(archives, tmp_path / "MNIST" / "raw")
    ours = data.load()
    preprocess = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    for train, images, labels in ((True, *ours[:2]), (False, *ours[2:4])):
        reference = datasets.MNIST(tmp_path, train=train, transform=preprocess, download=True)
        assert torch.equal(labels, reference.targets)
        assert images.shape == (len(reference), 1, 28, 28)
        for index in range(0, len(reference), 997):
            assert torch.equal(images[index], reference[index][0])
    assert ours.description["name"] == "MNIST"
    assert abs(ours.train_images.mean()) < 1e-3
    assert abs(ours.train_images.std() - 1) < 1e-3


def test_another_data_set_is_normalised_with_its_own_statistics(digits, idx_folder, tmp_path):
    assert digits.train_images.shape == (640, 1, 28, 28)
    assert abs(digits.train_images.mean()) < 1e-3
    assert abs(digits.train_images.std() - 1) < 1e-3
    for path in idx_folder.iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed = data.load(tmp_path)
    assert packed.description["md5"] == digits.description["md5"]
    assert torch.equal(packed.test_images, digits.test_images)


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(1, 500))
def test_the_order_is_a_permutation_and_a_function_of_seed_and_epoch(n, seed, epoch):
    torch.rand(3)  # whatever was drawn before
    order = data.epoch_order(n, seed, epoch)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, data.epoch_order(n, seed, epoch))
    if n > 20:
        assert not torch.equal(order, data.epoch_order(n, seed, epoch + 1))
        assert not torch.equal(order, data.epoch_order(n, seed + 1, epoch))
