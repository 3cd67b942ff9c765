"""Pinhole cameras as tensors: rays out of them, and points into their pictures.

A camera looks along its z axis, with x to the right and y down. Pixel coordinates (u, v) are column and row,
and whole numbers are the centres of pixels: the upper left pixel is at (0, 0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pinakes.scenes.world import Camera


@dataclass(frozen=True)
class Rays:
    """Rays of a batch of scenes, components first; directions are of unit length."""

    origin: Float[Tensor, "3 scene ray"]
    direction: Float[Tensor, "3 scene ray"]

    def at(self, distance: Float[Tensor, "scene ray"]) -> Float[Tensor, "3 scene ray"]:
        """The points at these distances."""
        return self.origin + distance * self.direction


@dataclass(frozen=True)
class Cameras:
    """One camera for each scene of a batch.

    Args:
        pose: World-from-camera, (scene, 4, 4).
        intrinsics: Focal lengths and principal point in pixels, (scene, 3, 3).
        height: Rows of the picture.
        width: Columns of the picture.
    """

    pose: Float[Tensor, "scene 4 4"]
    intrinsics: Float[Tensor, "scene 3 3"]
    height: int
    width: int

    @classmethod
    def of(cls, cameras: Sequence[Camera], height: int, width: int) -> "Cameras":
        """Makes tensors of cameras, for pictures of this size."""
        pose = look_at(
            torch.tensor([camera.position for camera in cameras], dtype=torch.float32),
            torch.tensor([camera.target for camera in cameras], dtype=torch.float32),
        )
        intrinsics = torch.eye(3).repeat(len(cameras), 1, 1)
        focal = torch.tensor([height / 2 / math.tan(math.radians(camera.fov) / 2) for camera in cameras])
        intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
        intrinsics[:, 0, 2], intrinsics[:, 1, 2] = (width - 1) / 2, (height - 1) / 2
        return cls(pose, intrinsics, height, width)

    def to(self, device: torch.device | str) -> "Cameras":
        """The same on another device."""
        return Cameras(self.pose.to(device), self.intrinsics.to(device), self.height, self.width)

    def shifted(self, baseline: float) -> "Cameras":
        """The same moved to its right by `baseline` scene units: the second camera of a rectified pair."""
        pose = self.pose.clone()
        pose[:, :3, 3] += baseline * pose[:, :3, 0]
        return Cameras(pose, self.intrinsics, self.height, self.width)

    def pixels(self) -> Float[Tensor, "2 1 ray"]:
        """Coordinates of all pixel centres, row by row."""
        v, u = torch.meshgrid(
            torch.arange(self.height, device=self.pose.device, dtype=self.pose.dtype),
            torch.arange(self.width, device=self.pose.device, dtype=self.pose.dtype),
            indexing="ij",
        )
        return torch.stack([u.flatten(), v.flatten()])[:, None]

    def rays(self, pixels: Float[Tensor, "2 any ray"] | None = None) -> Rays:
        """The rays through these pixel coordinates, by default through every pixel centre."""
        u, v = self.pixels() if pixels is None else pixels
        k, r = self.intrinsics[:, :, :, None], self.pose[:, :, :, None]
        x = (u - k[:, 0, 2]) / k[:, 0, 0]
        y = (v - k[:, 1, 2]) / k[:, 1, 1]
        length = (x.square() + y.square() + 1).sqrt()
        direction = torch.stack([(r[:, i, 0] * x + r[:, i, 1] * y + r[:, i, 2]) / length for i in range(3)])
        origin = self.pose[:, :3, 3].T[:, :, None].expand_as(direction)
        return Rays(origin, direction)

    def depth(self, points: Float[Tensor, "3 scene ray"]) -> Float[Tensor, "scene ray"]:
        """Depth of points along the optical axis, in scene units."""
        offset = points - self.pose[:, :3, 3].T[:, :, None]
        axis = self.pose[:, :3, 2].T[:, :, None]
        return (offset * axis).sum(0)

    def project(self, points: Float[Tensor, "3 scene ray"]) -> Float[Tensor, "2 scene ray"]:
        """Pixel coordinates of points in the world; those behind the camera are not marked as such."""
        offset = points - self.pose[:, :3, 3].T[:, :, None]
        x, y, z = ((offset * self.pose[:, :3, i].T[:, :, None]).sum(0) for i in range(3))
        z = torch.where(z.abs() < 1e-6, 1e-6, z)
        k = self.intrinsics
        u = k[:, 0, 0, None] * x / z + k[:, 0, 2, None]
        v = k[:, 1, 1, None] * y / z + k[:, 1, 2, None]
        return torch.stack([u, v])


def look_at(
    position: Float[Tensor, "scene 3"], target: Float[Tensor, "scene 3"]
) -> Float[Tensor, "scene 4 4"]:
    """World-from-camera poses of upright cameras that look at a target.

    Args:
        position: Where the cameras are.
        target: Where they look, not straight above or below `position`.
    """
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    up = position.new_tensor([0.0, 0.0, 1.0]).expand_as(position)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    pose = torch.eye(4, dtype=position.dtype, device=position.device).repeat(len(position), 1, 1)
    pose[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    pose[:, :3, 3] = position
    return pose
