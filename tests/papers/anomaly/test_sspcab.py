"""The block's masked convolution, attention and loss against naive loops, and what the host makes of them."""

import math

import pytest
import torch
from torch import Tensor

from pinakes import UserError
from pinakes.data.base import DataInfo
from pinakes.papers.anomaly.sspcab import (
    SSPCAB,
    ChannelAttention,
    MaskedConvolution,
    SSPCABAutoencoder,
    predictive_loss,
)

KERNELS = pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (1, 0), (2, 1), (3, 2), (2, 0)])


def features(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def block_of(channels: int, **options: int) -> SSPCAB:
    torch.manual_seed(0)
    return SSPCAB(channels, **options).double()


def visible(distance_down: int, distance_right: int, kernel_size: int, dilation: int) -> bool:
    """Whether a position at this distance from the centre lies in a corner of the receptive field."""
    return all(dilation < abs(d) <= dilation + kernel_size for d in (distance_down, distance_right))


def naive_masked(x: Tensor, module: MaskedConvolution) -> Tensor:
    """One large kernel of side 2 k' + 2 d + 1, zero but for its corners, summed position by position."""
    size, channels = module.kernel_size, x.shape[1]
    side = 2 * size + 2 * module.dilation + 1
    kernel = torch.zeros(channels, channels, side, side, dtype=x.dtype)
    first, last = slice(0, size), slice(side - size, side)
    corners = [(first, first), (first, last), (last, first), (last, last)]
    weights = module.state_dict()
    for index, (rows, columns) in enumerate(corners):
        kernel[:, :, rows, columns] = weights[f"corners.{index}.weight"]
    bias = torch.stack([weights[f"corners.{index}.bias"] for index in range(4)]).sum(0)
    found = torch.zeros_like(x)
    batch, _, height, width = x.shape
    for b in range(batch):
        for o in range(channels):
            for i in range(height):
                for j in range(width):
                    total = bias[o].item()
                    for u in range(side):
                        for v in range(side):
                            row, column = i + u - side // 2, j + v - side // 2
                            if 0 <= row < height and 0 <= column < width and kernel[:, :, u, v].any():
                                total += (kernel[o, :, u, v] * x[b, :, row, column]).sum().item()
                    found[b, o, i, j] = total
    return found


@KERNELS
def test_the_masked_convolution_is_the_naive_loop(kernel_size: int, dilation: int) -> None:
    module = MaskedConvolution(2, kernel_size, dilation).double()
    x = features(2, 2, 7, 6)
    torch.testing.assert_close(module(x), naive_masked(x, module), rtol=0, atol=1e-10)


@KERNELS
def test_the_prediction_of_a_position_sees_the_corners_and_nothing_else(
    kernel_size: int, dilation: int
) -> None:
    module = MaskedConvolution(2, kernel_size, dilation).double()
    jacobian = torch.autograd.functional.jacobian(module, features(1, 2, 8, 7))[0, :, :, :, 0]
    depends = jacobian.ne(0).any(dim=3).any(dim=0)
    assert depends.shape == (8, 7, 8, 7)
    for i in range(8):
        for j in range(7):
            assert not depends[i, j, i, j]
            expected = [
                [visible(row - i, column - j, kernel_size, dilation) for column in range(7)]
                for row in range(8)
            ]
            assert depends[i, j].tolist() == expected


def test_the_centre_gets_in_through_the_channel_means_only() -> None:
    block, x = block_of(8, reduction=2), features(1, 8, 6, 6)
    changed = x.clone()
    changed[..., 3, 3] += 1
    before, after = block(x)[..., 3, 3], block(changed)[..., 3, 3]
    assert not torch.equal(before, after)
    hidden = block.masked(x).relu()[..., 3, 3]
    assert torch.equal(hidden, block.masked(changed).relu()[..., 3, 3])
    pooled = block.masked(changed).relu().mean(dim=(2, 3))
    scale = torch.sigmoid(block.attention.excite(torch.relu(block.attention.squeeze(pooled))))
    torch.testing.assert_close(after, hidden * scale, rtol=0, atol=1e-12)


def test_the_channel_attention_is_the_naive_loop() -> None:
    module, x = ChannelAttention(16, reduction=8).double(), features(3, 16, 4, 5)
    found = module(x)
    first, second = module.squeeze, module.excite
    assert first.weight.shape == (2, 16)
    for b in range(3):
        means = [x[b, c].sum().item() / 20 for c in range(16)]
        hidden = [
            max(0.0, sum(w * m for w, m in zip(row, means, strict=True)) + bias)
            for row, bias in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
        ]
        for c in range(16):
            weights = second.weight[c].tolist()
            logit = sum(w * h for w, h in zip(weights, hidden, strict=True)) + second.bias[c].item()
            expected = x[b, c] / (1 + math.exp(-logit))
            torch.testing.assert_close(found[b, c], expected, rtol=0, atol=1e-10)


def test_the_block_is_masked_convolution_then_relu_then_attention() -> None:
    block, x = block_of(8, kernel_size=2, dilation=0, reduction=4), features(2, 8, 5, 9)
    expected = block.attention(naive_masked(x, block.masked).clamp(min=0))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)


def test_the_loss_is_the_mean_squared_error_over_batch_channels_and_positions() -> None:
    predicted, entered = features(4, 3, 5, 2), features(4, 3, 5, 2).flip(0)
    pairs = zip(predicted.flatten().tolist(), entered.flatten().tolist(), strict=True)
    expected = sum((a - b) ** 2 for a, b in pairs) / predicted.numel()
    assert predictive_loss(predicted, entered).item() == pytest.approx(expected, abs=1e-12)


def test_the_loss_of_the_block_reaches_every_parameter_and_what_entered() -> None:
    block, x = block_of(16, reduction=2), features(2, 16, 8, 8).requires_grad_()
    predictive_loss(block(x), x).backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert x.grad is not None
    assert x.grad.any()


def test_the_block_learns_to_predict_a_pattern_but_not_noise() -> None:
    phases = torch.arange(8)[:, None, None]
    waves = torch.arange(24).add(phases).mul(math.pi / 4).cos().add(1).expand(1, 8, 24, 24).double()
    noise = features(1, 8, 24, 24).relu()
    errors = []
    for target in (waves, noise):
        block = block_of(8, reduction=2)
        optimiser = torch.optim.Adam(block.parameters(), lr=0.01)
        for _ in range(100):
            predicted = block(target)
            optimiser.zero_grad()
            predictive_loss(predicted, target).backward()
            optimiser.step()
        inside = (predicted - target)[..., 2:-2, 2:-2]
        errors.append((inside.square().mean() / target.var()).item())
    assert errors[0] < 0.5 * errors[1]
    assert errors[1] > 0.7


def prepared(size: tuple[int, int] = (32, 32), channels: int = 3, **options: object) -> SSPCABAutoencoder:
    return SSPCABAutoencoder(**options).prepare(DataInfo(channels, size))  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [True, False])
def test_training_minimises_the_hosts_loss_and_lambda_times_the_blocks(block: bool) -> None:
    method, image = prepared(block=block, lambda_=0.3), torch.rand(2, 3, 32, 32)
    reconstruction, entered, left = method.autoencoder(image)
    torch.testing.assert_close(left, method.autoencoder.penultimate(entered))
    torch.testing.assert_close(reconstruction, method.autoencoder.last(left))
    expected = (reconstruction - image).square().mean()
    if block:
        expected = expected + 0.3 * (left - entered).square().mean()
    torch.testing.assert_close(method.training_step({"image": image}, 0), expected)


def test_only_the_penultimate_layer_differs_from_the_plain_autoencoder() -> None:
    ours, plain = prepared(), prepared(block=False)
    shapes = [{name: p.shape for name, p in m.autoencoder.named_parameters()} for m in (ours, plain)]
    differ = {name for name, _ in shapes[0].items() ^ shapes[1].items()}
    assert differ
    assert all(name.startswith("penultimate.") for name in differ)
    assert isinstance(ours.autoencoder.penultimate, SSPCAB)


@pytest.mark.parametrize(
    "shape", [(1, 3, 32, 32), (2, 3, 33, 50), (1, 1, 100, 75), (1, 1, 39, 256), (2, 3, 64, 41)]
)
@pytest.mark.parametrize("block", [True, False])
def test_images_of_any_size_and_channels_get_a_map_of_their_size(shape: tuple[int, ...], block: bool) -> None:
    method, image = prepared(channels=shape[1], block=block), torch.rand(shape)
    prediction = method.predict(image)
    method.task.check_prediction({"image": image}, prediction, method.info)
    assert torch.equal(prediction["score"], prediction["map"].amax(dim=(1, 2)))


def test_the_map_without_smoothing_is_the_squared_error_of_the_reconstruction() -> None:
    method, image = prepared((40, 33), sigma=0.0), torch.rand(2, 3, 40, 33)
    with torch.no_grad():
        reconstruction = method.eval().autoencoder(image)[0]
    assert reconstruction.shape == image.shape
    expected = sum((reconstruction[:, c] - image[:, c]) ** 2 for c in range(3)) / 3
    torch.testing.assert_close(method.predict(image)["map"], expected)


def images_of(method: SSPCABAutoencoder, spec: str) -> Tensor:
    train = method._load(spec).train
    return torch.stack([train[index]["image"] for index in range(len(train))])


def test_a_short_fit_reconstructs_better_and_lambda_makes_features_predictable() -> None:
    spec = "textures?size=32&n=16"
    start, plain, ours = prepared(), SSPCABAutoencoder(lambda_=0), SSPCABAutoencoder()
    for method in (plain, ours):
        method.fit(spec, steps=40, batch_size=8)
    images = images_of(ours, spec)
    reconstruction, prediction = [], []
    for method in (start, plain, ours):
        with torch.no_grad():
            made, entered, left = method.train().autoencoder(images)
        reconstruction.append((made - images).square().mean())
        prediction.append(predictive_loss(left, entered))
    assert reconstruction[2] < reconstruction[0]
    assert prediction[2] < prediction[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"dilation": -1}, "dilation"),
        ({"reduction": 0}, "reduction"),
        ({"reduction": 33}, "reduction"),
        ({"lambda_": -0.1}, "lambda_"),
        ({"lambda_": float("nan")}, "lambda_"),
        ({"width": 0, "reduction": 1}, "width"),
        ({"latent": 0}, "latent"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"sigma": -1.0}, "sigma"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        SSPCABAutoencoder(**options)  # type: ignore[arg-type]


def test_a_block_that_cannot_be_made_says_why() -> None:
    with pytest.raises(UserError, match="reduction"):
        SSPCAB(4)
    with pytest.raises(UserError, match="dilation"):
        MaskedConvolution(4, dilation=-1)
    with pytest.raises(UserError, match="kernel_size"):
        MaskedConvolution(4, kernel_size=0)
