"""Learning from several pictures of one scene: how points move, how the camera turned, what another view shows."""

import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

from benchmarks.scenes_learning.measures import Outcome, Samples
from benchmarks.scenes_learning.networks import Matching, Pooled, RadianceField, predict, train
from pinakes.scenes.camera import Cameras


def movement(
    training: Samples, held_out: Samples, steps: int, reach: tuple[int, int, int, int], usual: Tensor
) -> Outcome:
    """Learns how far pixels move, from the pictures `both` to `movement` (axis, height, width), where `counts`.

    The network says what to add to the usual movement, which by itself is chance. The error is the length of the
    difference, in pixels.
    """

    def error(answer: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
        length = (answer + usual - truth).square().sum(1).add(1e-6).sqrt()
        return (length * counts).sum() / counts.sum()

    network = Matching(training["movement"].shape[1], reach)
    train(network, [training["both"]], [training["movement"], training["counts"]], error, steps)
    answers = predict(network, held_out["both"])
    expected = held_out["movement"], held_out["counts"]
    return Outcome(error(answers, *expected).item(), error(torch.zeros_like(answers), *expected).item())


def stereo(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """The error itself."""
    for samples in (training, held_out):
        samples["both"] = torch.cat([samples["image"], samples["image_right"]], 1)
        samples["movement"] = samples["disparity"][:, None]
        samples["counts"] = (~samples["occluded"]).float()
    mean = training["movement"].mean(0, keepdim=True)
    return movement(training, held_out, steps, (6, 0, 0, 0), mean)


def pairs(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Smooth absolute error of the rotation vector."""
    images = [torch.cat([each["image"], each["image_2"]], 1) for each in (training, held_out)]
    truth, expected = (
        torch.from_numpy(
            Rotation.from_matrix(each["relative_pose"][:, :3, :3].numpy()).as_rotvec(degrees=True)
        )
        for each in (training, held_out)
    )
    scale = truth.std().float()
    network = train(Pooled(3, 6), [images[0]], [truth.float() / scale], F.smooth_l1_loss, steps)
    answers = predict(network, images[1]) * scale
    errors = [(each - expected).norm(dim=1).mean().item() for each in (answers, truth.mean(0))]
    return Outcome(*errors)


def flow(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """The error itself."""
    for samples in (training, held_out):
        samples["both"] = torch.cat([samples["image"], samples["image_2"]], 1)
        samples["movement"], samples["counts"] = samples["flow"], samples["visible"].float()
    return movement(training, held_out, steps, (3, 3, 3, 3), torch.zeros(1, 2, 1, 1))


def video(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """The error itself, at the points that are tracked and seen in the last frame."""
    for samples in (training, held_out):
        frames, tracks = samples["frames"], samples["tracks"]
        count, _, _, height, width = frames.shape
        samples["both"] = torch.cat([frames[:, 0], frames[:, -1]], 1)
        u, v = tracks[:, :, 0].round().long().unbind(-1)
        sample = torch.arange(count)[:, None].expand_as(u)
        samples["movement"] = torch.zeros(count, 2, height, width)
        samples["movement"][sample, :, v, u] = tracks[:, :, -1] - tracks[:, :, 0]
        samples["counts"] = torch.zeros(count, height, width)
        samples["counts"][sample, v, u] = samples["visible"][:, :, -1].float()
    return movement(training, held_out, steps, (3, 3, 3, 3), torch.zeros(1, 2, 1, 1))


def multiview(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Squared error of the colours of rays."""

    def rays(samples: Samples) -> Tensor:
        found = Cameras(samples["pose"], samples["intrinsics"], *samples["image"].shape[-2:]).rays()
        return torch.cat([found.origin, found.direction]).permute(1, 2, 0).flatten(0, 1)

    colours = training["image"].flatten(2).transpose(1, 2).flatten(0, 1)
    network = train(RadianceField(), [rays(training)], [colours], F.mse_loss, steps, batch=512)
    expected = held_out["image"]
    answers = predict(network, rays(held_out)).unflatten(0, (len(expected), -1)).transpose(1, 2)
    seen = answers.unflatten(2, expected.shape[-2:])
    mean = training["image"].mean(0, keepdim=True).expand_as(expected)
    return Outcome(F.mse_loss(seen, expected).item(), F.mse_loss(mean, expected).item())
