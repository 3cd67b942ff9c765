"""Pictures against closed forms: depth, projection, shadows, ids."""

import math

import numpy as np
import pytest
import torch

from pinakes.errors import UserError
from pinakes.scenes.batch import batch_scenes, rotations
from pinakes.scenes.camera import Cameras, look_at
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution
from pinakes.scenes.primitives import KINDS
from pinakes.scenes.renderer import OUTPUTS, render
from pinakes.scenes.world import Camera, Light, Material, Part, Scene, Thing
from tests.scenes.shapes import DISTANCE, SIZES


def _single(kind: str, turn: tuple[float, float, float] = (0.4, 0.3, 0.2), height: float = 1.2) -> Scene:
    part = Part(kind, SIZES[kind], (0.1, 0.0, 0.0), turn)
    thing = Thing("one", 0, (part,), (0.2, -0.1, height), (0.0, 0.0, 0.5))
    return Scene((thing,), camera=Camera((1.0, -5.0, 3.0), (0.2, 0.0, 0.9)))


def _render(*scenes: Scene, outputs: tuple[str, ...] = ("image",), size: int = 48, **options: object) -> dict:
    cameras = Cameras.of([scene.camera for scene in scenes], size, size)
    return render(batch_scenes(scenes), cameras, outputs, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_a_turned_primitive_lie_on_it(kind: str) -> None:
    scene = _single(kind)
    out = _render(scene, outputs=("position", "instance", "normal"))
    batch = batch_scenes([scene])
    rotation, centre = batch.part_frames()
    seen = out["instance"][0] == 1
    points = out["position"][0][:, seen].double() - centre[0, 0, :, None]
    local = (rotation[0, 0].T.double() @ points).requires_grad_()
    distance = DISTANCE[kind](local, torch.tensor(SIZES[kind], dtype=torch.float64)[:, None])
    assert seen.sum() > 20
    assert distance.abs().max() < 1e-4


def test_depth_of_the_ground_is_that_of_a_plane() -> None:
    camera = Camera((0.0, -6.0, 4.0), (0.0, 0.0, 0.0))
    scene = Scene((Thing("far", 0, (Part("sphere", (0.1, 0, 0)),), (0.0, 30.0, 0.0)),), camera=camera)
    out = _render(scene, outputs=("depth", "semantic"))
    cameras = Cameras.of([camera], 48, 48)
    v = torch.arange(48.0)
    y = (v - 23.5) / cameras.intrinsics[0, 1, 1]
    pitch = math.atan2(4, 6)
    expected = 4 / (math.sin(pitch) + y * math.cos(pitch))
    ground = out["semantic"][0, :, 24] == 1
    torch.testing.assert_close(out["depth"][0, ground, 24], expected[ground], atol=1e-4, rtol=1e-5)


def test_depth_of_a_ball_is_the_nearer_root() -> None:
    scene = Scene(
        (Thing("ball", 0, (Part("sphere", (0.7, 0, 0)),), (0.0, 0.0, 1.0)),),
        camera=Camera((0, -5, 1), (0, 0, 1)),
    )
    out = _render(scene, outputs=("depth", "instance", "normal"), size=33)
    centre = out["depth"][0, 16, 16]
    assert centre.item() == pytest.approx(4.3, abs=1e-5)
    u, v = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="xy")
    focal = 33 / 2 / math.tan(math.radians(16))
    x, y = (u / focal).double(), (v / focal).double()
    a = x**2 + y**2 + 1
    root = 25 - a * (25 - 0.49)
    expected = ((5 - root.clamp_min(0).sqrt()) / a).float()
    seen = out["instance"][0] == 1
    assert torch.equal(seen, root > 0)
    torch.testing.assert_close(out["depth"][0][seen], expected[seen], atol=1e-4, rtol=0)
    normal = torch.stack([x * expected, expected - 5, -y * expected]).float() / 0.7
    torch.testing.assert_close(out["normal"][0][:, seen], normal[:, seen], atol=3e-4, rtol=0)


def test_positions_project_back_to_their_pixels() -> None:
    scenes = [draw_scene(np.random.default_rng(i)) for i in range(3)]
    cameras = Cameras.of([scene.camera for scene in scenes], 40, 56)
    out = render(batch_scenes(scenes), cameras, ("position", "depth"))
    points = out["position"].transpose(0, 1).flatten(2)
    torch.testing.assert_close(cameras.project(points), cameras.pixels().expand(2, 3, -1), atol=2e-3, rtol=0)
    torch.testing.assert_close(cameras.depth(points), out["depth"].flatten(1), atol=1e-4, rtol=0)


def test_camera_pose_is_a_rotation_with_y_down() -> None:
    pose = look_at(torch.tensor([[3.0, -4.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.0]]))[0]
    torch.testing.assert_close(pose[:3, :3].T @ pose[:3, :3], torch.eye(3), atol=1e-6, rtol=0)
    assert torch.linalg.det(pose[:3, :3]).item() == pytest.approx(1, abs=1e-5)
    assert pose[2, 1] < 0
    assert pose[2, 0].abs() < 1e-6


def test_rotation_vectors_turn_by_their_length() -> None:
    turned = rotations(torch.tensor([0.0, 0.0, math.pi / 2])) @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def _lit_from_above(radius: float) -> dict:
    ball = Thing("ball", 0, (Part("sphere", (0.5, 0, 0)),), (0.0, 0.0, 1.5))
    scene = Scene(
        (ball,),
        ground=Material(colour=(0.5, 0.5, 0.5)),
        lights=(Light((0.0, 0.0, 9.0), radius, (0.8, 0.8, 0.8)),),
        sky=(0.0, 0.0, 0.0),
        camera=Camera((0.0, -6.0, 6.0), (0.0, 0.0, 0.0)),
    )
    return _render(scene, outputs=("shading", "position", "semantic"), size=96, shadow_samples=32)


def test_a_point_lamp_casts_the_shadow_of_the_tangent_cone() -> None:
    out = _lit_from_above(1e-4)
    x, y, _ = out["position"][0]
    away = (x**2 + y**2).sqrt()
    edge = 9 * math.tan(math.asin(0.5 / 7.5))
    ground = out["semantic"][0] == 1
    dark = out["shading"][0, 0] == 0
    assert dark[ground & (away < edge - 0.02)].all()
    assert not dark[ground & (away > edge + 0.02)].any()


def test_a_wide_lamp_has_a_half_shadow_between_light_and_dark() -> None:
    out = _lit_from_above(0.8)
    x, y, _ = out["position"][0]
    away = (x**2 + y**2).sqrt()
    ground = out["semantic"][0] == 1
    light = out["shading"][0, 0] / 0.8 / (9 / (away**2 + 81).sqrt())
    edge = 9 * math.tan(math.asin(0.5 / 7.5))
    assert light[ground & (away < edge - 0.2)].max() < 0.05
    assert light[ground & (away > edge + 0.25)].min() > 0.95
    half = light[ground & ((away - edge).abs() < 0.03)]
    assert 0.3 < half.mean() < 0.7


def test_image_is_albedo_times_shading_where_nothing_is_glossy() -> None:
    scenes = [draw_scene(np.random.default_rng(i), Distribution(glossy=0.0)) for i in range(2)]
    out = _render(*scenes, outputs=("image", "albedo", "shading"), antialias=False)
    made = (out["albedo"] * out["shading"]).clamp(0, 1).pow(1 / 2.2)
    torch.testing.assert_close(out["image"], made, atol=1e-6, rtol=0)


def test_instances_tell_the_classes() -> None:
    scenes = [draw_scene(np.random.default_rng(i)) for i in range(4)]
    out = _render(*scenes, outputs=("instance", "semantic"))
    for scene, instance, semantic in zip(scenes, out["instance"], out["semantic"], strict=True):
        assert ((instance == 0) == (semantic < 2)).all()
        for index, thing in enumerate(scene.things):
            assert (semantic[instance == index + 1] == thing.category + 2).all()


def test_a_scene_does_not_depend_on_its_batch() -> None:
    scenes = [draw_scene(np.random.default_rng(i)) for i in range(4)]
    together = _render(*scenes, outputs=("image", "depth"))
    alone = _render(scenes[2], outputs=("image", "depth"))
    torch.testing.assert_close(together["image"][2], alone["image"][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(together["depth"][2], alone["depth"][0], atol=1e-5, rtol=0)


def test_only_edges_are_smoothed() -> None:
    scene = draw_scene(np.random.default_rng(5))
    out = {aa: _render(scene, outputs=("image", "instance"), antialias=aa) for aa in (True, False)}
    changed = (out[True]["image"] - out[False]["image"]).abs().amax(1)[0] > 1e-6
    instance = out[True]["instance"][0]
    inside = torch.nn.functional.unfold(instance[None, None].float(), 3, padding=1)
    flat = (inside == inside[:, 4:5]).all(1).view_as(instance)
    assert changed.any()
    assert changed[flat].float().mean() < 0.05


def test_every_output_is_finite_and_in_range() -> None:
    scenes = [draw_scene(np.random.default_rng(i), Distribution().textured_by("both")) for i in range(4)]
    out = _render(*scenes, outputs=OUTPUTS)
    assert all(torch.isfinite(value.float()).all() for value in out.values())
    assert out["image"].min() >= 0
    assert out["image"].max() <= 1
    assert 0.2 < out["image"].mean() < 0.8
    torch.testing.assert_close(out["normal"].norm(dim=1), torch.ones(4, 48, 48), atol=1e-4, rtol=0)


def test_unknown_output_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'depth'"):
        _render(_single("box"), outputs=("dept",))


def test_no_room_is_said() -> None:
    with pytest.raises(UserError, match="no room for 60"):
        Distribution(things=(60, 60))


def test_crowded_scenes_hold_smaller_things() -> None:
    scene = draw_scene(np.random.default_rng(0), Distribution(things=(18, 20)))
    assert len(scene.things) >= 18
    for i, a in enumerate(scene.things):
        for b in scene.things[:i]:
            if a.stands_on < 0 and b.stands_on < 0:
                apart = math.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1])
                assert apart > a.radius + b.radius
