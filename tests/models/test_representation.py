"""The head of the contrastive loss: sizes, memory layout, and that it is the same for student and teacher in evaluation."""

import pytest
import torch
from torch import nn

from semivss.losses.contrast_sets import nearest
from semivss.models.representation import RepresentationHead


@pytest.mark.parametrize(("stride", "size"), [(4, (7, 10)), (8, (4, 5))])
def test_size_and_layout(stride, size):
    z = RepresentationHead(12, 32, stride=stride)(torch.randn(2, 12, 7, 10))
    assert z.shape == (2, 32, *size)
    assert z.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [4, 8])
def test_cells_are_those_that_labels_are_read_for(stride):
    """With convolutions that only look at their centre a feature shows in the cell whose label is read there, at an odd image size too."""
    head = RepresentationHead(8, 8, stride=stride, dropout=0.0)
    for number, layer in enumerate(head.layers):
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
        elif isinstance(layer, nn.GroupNorm):
            head.layers[number] = nn.Identity()
    nn.init.zeros_(head.layers[-1].bias)
    features, labels = torch.zeros(1, 8, 9, 13), torch.zeros(1, 35, 51, dtype=torch.uint8)
    features[:, :, 8, 4], labels[:, 32:, 16:20] = 1.0, 1
    z = head(features)
    assert torch.equal(z[:, 0] != 0, nearest(labels, (z.shape[2], z.shape[3])) == 1)
    assert z.count_nonzero() == 8


def test_dropout_ends_with_training():
    head, features = RepresentationHead(8, 64), torch.randn(1, 8, 4, 4)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


def test_images_do_not_influence_each_other():
    head, features = RepresentationHead(8, 32).eval(), torch.randn(3, 8, 4, 4)
    torch.testing.assert_close(head(features)[1:2], head(features[1:2]))


def test_odd_channels_and_strides():
    assert RepresentationHead(5, 24)(torch.randn(1, 5, 4, 4)).shape == (1, 24, 4, 4)
    with pytest.raises(ValueError, match="4 or 8"):
        RepresentationHead(5, 24, stride=2)
