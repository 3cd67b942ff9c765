"""What the detectors of this shelf share."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import gaussian_blur
from tqdm.auto import tqdm

from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.method import Method
from pinakes.tasks.base import Batch


class Detector(Method):
    """A method for the task `anomaly`: fitted on normal images, it scores images and, mostly, their pixels."""

    task_name = "anomaly"
    min_size = 32

    def describe_training_images(
        self, data: TaskData, plan: TrainingPlan, describe: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "rows features"]:
        """What `describe` makes of all training images, batch by batch, without gradients.

        Args:
            data: Its `train` is gone through once, in order.
            plan: Batch size, workers and whether to show progress.
            describe: Images (batch, channels, height, width) in [0, 1] to rows (any number, features).
        """
        loader: DataLoader[Batch] = DataLoader(
            data.train,  # type: ignore[arg-type]  # any map-style set serves
            batch_size=plan.batch_size,
            num_workers=plan.workers,
            collate_fn=self.task.collate,
        )
        with torch.no_grad():
            rows = [
                describe(batch["image"].to(self.device))
                for batch in tqdm(loader, desc="features", disable=not plan.progress, leave=False)
            ]
        return torch.cat(rows)


def smoothed_map(
    patch_scores: Float[Tensor, "batch rows columns"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "batch height width"]:
    """Patch scores as a map of the image: upsampled bilinearly to `size`, then smoothed by a Gaussian.

    Args:
        patch_scores: One score for each patch position.
        size: Height and width of the map in pixels.
        sigma: Standard deviation of the Gaussian in pixels; 0 leaves the map as it is.
    """
    upsampled = functional.interpolate(patch_scores[:, None], size=size, mode="bilinear", align_corners=False)
    if sigma > 0:
        radius = min(int(4 * sigma + 0.5), min(size) - 1)
        upsampled = gaussian_blur(upsampled, kernel_size=[2 * radius + 1] * 2, sigma=[sigma] * 2)
    return torch.squeeze(upsampled, 1)
