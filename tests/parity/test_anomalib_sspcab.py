"""The block against anomalib's with the same weights.

anomalib's block leaves out the ReLU between masked convolution and attention that the paper and the authors' code have,
so the comparison is made twice: part by part, and as a whole with that ReLU put into anomalib's.
"""

import pytest
import torch
from torch import nn

from pinakes.papers.anomaly.sspcab import SSPCAB

reference = pytest.importorskip("anomalib.models.components.layers.sspcab", reason="anomalib is not here")

SHAPES = pytest.mark.parametrize(
    ("kernel_size", "dilation", "reduction"), [(1, 1, 8), (3, 1, 8), (2, 0, 4), (3, 2, 2)]
)


def same_weights(channels: int, kernel_size: int, dilation: int, reduction: int) -> tuple[SSPCAB, nn.Module]:
    torch.manual_seed(0)
    theirs = reference.SSPCAB(channels, kernel_size, dilation, reduction)
    ours = SSPCAB(channels, kernel_size, dilation, reduction)
    state = {}
    for index in range(4):
        for part in ("weight", "bias"):
            state[f"masked.corners.{index}.{part}"] = theirs.state_dict()[f"masked_conv{index + 1}.{part}"]
    for name, name_there in (("squeeze", "fc1"), ("excite", "fc2")):
        for part in ("weight", "bias"):
            state[f"attention.{name}.{part}"] = theirs.state_dict()[f"attention_module.{name_there}.{part}"]
    ours.load_state_dict(state)
    return ours, theirs


@SHAPES
def test_masked_convolution_and_attention_without_the_relu(
    kernel_size: int, dilation: int, reduction: int
) -> None:
    ours, theirs = same_weights(16, kernel_size, dilation, reduction)
    x = torch.randn(2, 16, 11, 14)
    with torch.no_grad():
        found = ours.attention(ours.masked(x))
        torch.testing.assert_close(found, theirs(x), rtol=0, atol=1e-5)


@SHAPES
def test_the_whole_block_where_both_have_the_relu(kernel_size: int, dilation: int, reduction: int) -> None:
    ours, theirs = same_weights(16, kernel_size, dilation, reduction)
    x = torch.randn(2, 16, 11, 14)
    with torch.no_grad():
        assert (ours(x) - theirs(x)).abs().max() > 1e-2
        theirs.get_submodule("attention_module").register_forward_pre_hook(
            lambda module, inputs: inputs[0].relu()
        )
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
