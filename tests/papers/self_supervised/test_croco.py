import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional

import pinakes
from pinakes.nn.masked_autoencoder import masking_from, normalised, patchify, random_masking
from pinakes.nn.view_pairs import (
    Binocular,
    DenseHead,
    Monocular,
    PoseHead,
    fine_tune,
    pose_loss,
    rotation_from,
    turn_error,
)
from pinakes.papers.self_supervised.croco import CroCo, CrossBlock, CrossViewDecoder

INFO = pinakes.DataInfo(3, (32, 32))


def small() -> CroCo:
    return CroCo(embed_dim=32, depth=1, decoder_embed_dim=32, decoder_depth=2)


def attended(asking: torch.Tensor, asked: torch.Tensor, module: torch.nn.MultiheadAttention) -> torch.Tensor:
    """Attention of one sample, head by head and query by query."""
    parts = zip(
        (asking, asked, asked), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True
    )
    query, key, value = (tokens @ weight.T + bias for tokens, weight, bias in parts)
    rows = []
    for each in query:
        heads = []
        for head in torch.arange(query.shape[1]).chunk(module.num_heads):
            share = ((key[:, head] @ each[head]) / math.sqrt(len(head))).softmax(0)
            heads.append(share @ value[:, head])
        rows.append(module.out_proj(torch.cat(heads)))
    return torch.stack(rows)


def test_a_block_is_self_attention_cross_attention_and_a_perceptron() -> None:
    torch.manual_seed(0)
    block = CrossBlock(64).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, y = torch.randn(1, 5, 64), torch.randn(1, 3, 64)
    layer = block.layer
    found = x[0] + attended(layer.norm1(x[0]), layer.norm1(x[0]), layer.self_attn)
    found = found + attended(layer.norm2(found), block.norm_other(y[0]), layer.multihead_attn)
    found = found + layer.linear2(functional.gelu(layer.linear1(layer.norm3(found))))
    for mode in (True, False):
        torch.testing.assert_close(block.train(mode)(x, y)[0], found, atol=1e-4, rtol=1e-4)


def test_hidden_patches_are_mask_tokens_with_their_positions() -> None:
    decoder = CrossViewDecoder((2, 3), inputs=32, width=32, depth=1).eval()
    masking = masking_from(torch.tensor([[0.7, 0.1, 0.9, 0.3, 0.8, 0.2]]), 0.5)
    seen = []
    decoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.extend(given))
    first, second = torch.randn(1, 4, 32), torch.randn(1, 7, 32)
    decoder(first, second, masking.restore)
    tokens, other = (each[0] for each in seen)
    for place in range(6):
        where = masking.visible[0].tolist()
        given = decoder.mask_token[0, 0]
        if place in where:
            given = decoder.embed(decoder.norm(first[0, 1 + where.index(place)]))
        torch.testing.assert_close(tokens[place], given + decoder.places[0, place])
    torch.testing.assert_close(other, decoder.embed(decoder.norm(second[0, 1:])) + decoder.places[0])


def test_one_encoder_sees_a_tenth_of_the_first_view_and_all_of_the_second() -> None:
    method = small().prepare(INFO)
    seen = []
    method.encoder.network.blocks[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    method.training_step({"image": torch.rand(2, 3, 32, 32), "image_2": torch.rand(2, 3, 32, 32)}, 0)
    assert seen == [1 + 6, 1 + 64]


def test_the_loss_counts_hidden_patches_of_the_first_view_alone() -> None:
    method = small().prepare(INFO).eval()
    image, image_2 = torch.rand(2, 2, 3, 32, 32)
    masking = random_masking(2, 64, 0.9)
    painted = method.paint(image, image_2, masking)
    errors = []
    for sample, patch in masking.hidden.nonzero().tolist():
        true = patchify(normalised(image), 4)[sample, patch]
        true = (true - true.mean()) / (true.var() + 1e-6).sqrt()
        errors.append((painted[sample, patch] - true).square().mean())
    assert len(errors) == 2 * 58
    torch.testing.assert_close(method.completion_loss(image, image_2, masking), torch.stack(errors).mean())


def test_what_is_painted_depends_on_the_second_view() -> None:
    method = small().prepare(INFO).eval()
    image, image_2, other = torch.rand(3, 2, 3, 32, 32)
    masking = random_masking(2, 64, 0.9)
    painted = method.paint(image, image_2, masking)
    assert (painted - method.paint(image, other, masking)).abs().max() > 1e-3
    covered = masking.hidden.view(2, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(painted, method.paint(torch.where(covered, other, image), image_2, masking))


def test_the_pose_head_gives_rigid_transformations() -> None:
    torch.manual_seed(0)
    rotations = rotation_from(torch.randn(20, 6))
    eye = torch.eye(3).expand(20, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(rotation_from(rotations[:, :, :2].mT.flatten(1)), rotations, atol=1e-5, rtol=0)
    pose = PoseHead(32)(torch.zeros(2, 5, 32))
    torch.testing.assert_close(pose, torch.eye(4).expand(2, 4, 4))


def test_turns_are_measured_as_scipy_measures_them() -> None:
    one, two = Rotation.random(10, random_state=0), Rotation.random(10, random_state=1)
    poses = torch.eye(4).repeat(2, 10, 1, 1)
    poses[:, :, :3, :3] = torch.as_tensor([one.as_matrix().tolist(), two.as_matrix().tolist()])
    degrees = torch.as_tensor((one.inv() * two).magnitude()).rad2deg().float()
    torch.testing.assert_close(turn_error(poses[0], poses[1]), degrees, atol=1e-2, rtol=0)


def test_depth_and_flow_and_pose_are_fine_tuned() -> None:
    torch.manual_seed(0)
    size = (16, 24)
    method = small().prepare(pinakes.DataInfo(3, size))
    fields = {"image": (3, *size), "image_2": (3, *size), "depth": (1, *size), "flow": (2, *size)}
    samples = {name: torch.rand(4, *shape) for name, shape in fields.items()}
    samples["pose"] = torch.eye(4).repeat(4, 1, 1)
    samples["pose"][:, :3, :3] = rotation_from(torch.tensor([[1.0, 0.3, 0, 0, 1, 0.3]]).repeat(4, 1))
    one = Monocular(method.encoder, method.decoder.norm, DenseHead(32, size, 4, 1))
    two = Binocular(method.encoder, method.decoder, DenseHead(32, size, 4, 2))
    pose = Binocular(method.encoder, method.decoder, PoseHead(32))
    losses = [
        (one, lambda some: functional.l1_loss(one(some["image"]), some["depth"])),
        (two, lambda some: functional.l1_loss(two(some["image"], some["image_2"]), some["flow"])),
        (pose, lambda some: pose_loss(pose(some["image"], some["image_2"]), some["pose"])),
    ]
    for network, loss in losses:
        before = float(loss(samples).detach())
        fine_tune(network, loss, samples, steps=30, batch_size=4)
        assert float(loss(samples).detach()) < 0.8 * before


def test_the_head_of_pixels_keeps_patches_in_their_places() -> None:
    head = DenseHead(32, (8, 12), patch=4, outputs=2)
    tokens = torch.rand(1, 6, 32)
    answer = head(tokens)
    moved = head(tokens + functional.one_hot(torch.tensor(4), 6)[None, :, None])
    assert ((moved - answer).abs() > 1e-4).flatten(0, 1).any(0).nonzero().min(0).values.tolist() == [4, 4]
    torch.testing.assert_close(moved[:, :, :4], answer[:, :, :4])


@pytest.mark.parametrize(
    "options", [{"mask_ratio": 1.0}, {"jitter": 1.5}, {"augmentation": "crop"}, {"decoder_depth": 0}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        CroCo(**options)  # type: ignore[arg-type]


def test_data_without_a_second_view_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="a second view of each scene"):
        CroCo().fit("digits?n=40&size=32", steps=1)
