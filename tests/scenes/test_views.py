"""Pairs, stereo, flow, films and posed views against closed forms and against each other."""

import torch
from torch import Tensor

from pinakes.scenes.motion import orbit
from pinakes.scenes.world import Camera
from tests.scenes.test_labels import SIZE, grid, samples


def _warp(picture: Tensor, displacement: Tensor) -> Tensor:
    """The picture (3, height, width) looked up where each pixel moves to."""
    place = (grid(SIZE, SIZE) + displacement) / (SIZE - 1) * 2 - 1
    return torch.nn.functional.grid_sample(
        picture[None], place.permute(1, 2, 0)[None], align_corners=True, padding_mode="border"
    )[0]


def test_disparity_is_focal_length_times_baseline_over_depth() -> None:
    for sample in samples("stereo"):
        expected = sample["intrinsics"][0, 0] * sample["baseline"] / sample["depth"]
        torch.testing.assert_close(sample["disparity"], expected, atol=1e-3, rtol=0)
        assert 0 < sample["occluded"].float().mean() < 0.5


def test_the_right_picture_warped_by_the_disparity_is_the_left_one() -> None:
    for sample in samples("stereo"):
        shift = torch.stack([-sample["disparity"], torch.zeros_like(sample["disparity"])])
        warped = _warp(sample["image_right"], shift)
        error = (warped - sample["image"]).abs().mean(0)[~sample["occluded"]]
        assert error.median() < 0.01
        assert error.mean() < 0.03


def test_the_second_picture_warped_by_the_flow_is_the_first() -> None:
    for what in ("flow", "pairs"):
        for sample in samples(what):
            error = (_warp(sample["image_2"], sample["flow"]) - sample["image"]).abs().mean(0)
            assert sample["visible"].float().mean() > 0.4
            assert error[sample["visible"]].mean() < 0.04
            assert error[sample["visible"]].median() < 0.02


def test_flow_of_a_still_world_is_nothing() -> None:
    for sample in samples("flow", 2, speed="0", still_camera="true"):
        assert sample["flow"].abs().max() < 2e-3
        assert sample["visible"].all()


def test_pairs_agree_with_depth_and_relative_pose() -> None:
    for sample in samples("pairs"):
        k = sample["intrinsics"]
        pixels = torch.cat([grid(SIZE, SIZE).flatten(1), torch.ones(1, SIZE * SIZE)])
        points = torch.linalg.inv(k) @ pixels * sample["depth"].flatten()
        there = sample["relative_pose"][:3, :3] @ points + sample["relative_pose"][:3, 3:]
        projected = k @ there
        pixel = projected[:2] / projected[2]
        seen = sample["visible"].flatten()
        expected = (grid(SIZE, SIZE) + sample["flow"]).flatten(1)
        torch.testing.assert_close(pixel[:, seen], expected[:, seen], atol=5e-3, rtol=0)
        looked_up = _warp(sample["depth_2"][None], sample["flow"])[0].flatten()
        assert ((looked_up - there[2]).abs()[seen] < 0.05).float().mean() > 0.8


def test_tracks_start_on_their_pixels_and_stay_on_their_thing() -> None:
    for sample in samples("video", 3, frames="4", points="40"):
        assert sample["frames"].shape == (4, 3, SIZE, SIZE)
        assert sample["tracks"].shape == (40, 4, 2)
        first = sample["tracks"][:, 0].round().long()
        torch.testing.assert_close(sample["tracks"][:, 0], first.float(), atol=5e-3, rtol=0)
        assert sample["visible"][:, 0].all()
        owner = sample["instance"][0][first[:, 1], first[:, 0]]
        assert 0.2 < (owner > 0).float().mean() < 0.8
        last = sample["tracks"][:, -1].round().long().clamp(0, SIZE - 1)
        stayed = sample["instance"][-1][last[:, 1], last[:, 0]] == owner
        assert stayed[sample["visible"][:, -1]].float().mean() > 0.85


def test_things_move_in_films() -> None:
    moved = [(s["tracks"][:, -1] - s["tracks"][:, 0]).norm(dim=1).max() for s in samples("video", 2)]
    assert min(moved) > 1


def test_views_show_one_scene() -> None:
    one, two = samples("multiview", 2)
    rays = torch.linalg.inv(one["intrinsics"]) @ torch.cat(
        [grid(SIZE, SIZE).flatten(1), torch.ones(1, SIZE**2)]
    )
    world = one["pose"][:3, :3] @ (rays * one["depth"].flatten()) + one["pose"][:3, 3:]
    there = two["pose"][:3, :3].T @ (world - two["pose"][:3, 3:])
    pixel = (two["intrinsics"] @ there)[:2] / there[2]
    inside = ((pixel >= 0) & (pixel <= SIZE - 1)).all(0) & (there[2] > 0)
    assert inside.float().mean() > 0.2
    u, v = pixel[:, inside].round().long()
    near = (two["depth"][v, u] - there[2, inside]).abs() < 0.15
    assert near.float().mean() > 0.5


def test_orbit_keeps_the_target_and_the_distance() -> None:
    camera = Camera((3.0, 0.0, 2.0), (0.0, 0.0, 0.5))
    turned = orbit(camera, 0.7, 0.1, 1.0)
    assert turned.target == camera.target
    for a in (camera, turned):
        assert abs(sum((p - t) ** 2 for p, t in zip(a.position, a.target, strict=True)) - 11.25) < 1e-6
