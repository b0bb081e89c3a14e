"""The head of the contrastive loss: sizes, memory layout, and that it is the same for student and teacher in evaluation."""

import pytest
import torch

from semivss.losses.contrast_sets import nearest
from semivss.models.representation import RepresentationHead


@pytest.mark.parametrize(("stride", "size"), [(4, (7, 10)), (8, (4, 5))])
def test_size_and_layout(stride, size):
    z = RepresentationHead(12, 32, stride=stride)(torch.randn(2, 12, 7, 10))
    assert z.shape == (2, 32, *size)
    assert z.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [4, 8])
def test_cells_are_those_that_labels_are_read_for(stride):
    """Where a pixel's features change, the vectors around the cell change that holds the pixel; odd image sizes included."""
    head = RepresentationHead(8, 32, stride=stride).eval()
    features = torch.zeros(1, 8, 9, 13)  # an image of 35 x 51
    labels = torch.zeros(1, 35, 51, dtype=torch.uint8)
    features[:, :, 8, 4], labels[:, 32:, 16:20] = 5.0, 1
    changed = (head(features) - head(torch.zeros_like(features))).abs().sum(1)
    (cell,) = nearest(labels, tuple(changed.shape[1:])).nonzero()[:, 1:].tolist()
    assert divmod(int(changed.argmax()), changed.shape[2])[0] == cell[0]
    assert abs(divmod(int(changed.argmax()), changed.shape[2])[1] - cell[1]) <= 1


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
