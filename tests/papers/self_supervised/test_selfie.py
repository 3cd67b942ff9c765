import math

import pytest
import torch
from einops import rearrange

import pinakes
from pinakes.nn.masked_autoencoder import masking_from, patchify
from pinakes.nn.painting import GREY
from pinakes.papers.self_supervised.selfie import PatchQueries, Selfie, patch_selection_loss
from pinakes.papers.self_supervised.transformer import hidden_patches

INFO = pinakes.DataInfo(3, (32, 32))


def test_loss_is_the_cross_entropy_of_the_true_patch_among_those_of_the_same_image() -> None:
    torch.manual_seed(0)
    query, patches = torch.randn(2, 3, 4, 5).unbind()
    naive = 0.0
    for image in range(3):
        for place in range(4):
            scores = [float(query[image, place] @ patches[image, other]) for other in range(4)]
            naive -= math.log(math.exp(scores[place]) / sum(map(math.exp, scores))) / 3 / 4
    assert patch_selection_loss(query, patches).item() == pytest.approx(naive, abs=1e-5)


def test_queries_are_the_pooled_vector_plus_row_and_column() -> None:
    torch.manual_seed(0)
    queries = PatchQueries((2, 3), width=8, heads=2, depth=1).eval()
    masking = masking_from(torch.rand(4, 6), 0.5)
    patches = torch.randn(4, 6, 8)
    found = queries(patches, masking)
    for image in range(4):
        pooled = queries.pooled(patches[image, masking.visible[image]][None])[0]
        for number, place in enumerate(hidden_patches(masking)[image].tolist()):
            expected = pooled + queries.rows[place // 3] + queries.columns[place % 3]
            torch.testing.assert_close(found[image, number], expected, atol=1e-5, rtol=0)


def test_pooling_sees_visible_patches_alone_and_in_no_order() -> None:
    torch.manual_seed(0)
    queries = PatchQueries((2, 3), width=8, heads=2, depth=2).eval()
    masking = masking_from(torch.rand(4, 6), 0.5)
    patches = torch.randn(4, 6, 8)
    changed = torch.where(masking.hidden[:, :, None], torch.randn(4, 6, 8), patches)
    torch.testing.assert_close(queries(changed, masking), queries(patches, masking))
    some = torch.randn(4, 3, 8)
    torch.testing.assert_close(queries.pooled(some.flip(1)), queries.pooled(some), atol=1e-5, rtol=0)


def test_a_patch_is_looked_at_by_itself() -> None:
    method = Selfie().prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    vectors = method.patch_vectors(image)
    assert vectors.shape == (2, 16, 32)
    patch = image[1:, :, 8:16, 16:24]  # second row, third column
    expected = method.encoder.network["stem"]((patch - method.encoder.mean) / method.encoder.std)
    for stage in ("stage1", "stage2"):
        expected = method.encoder.network[stage](expected)
    torch.testing.assert_close(vectors[1, 6], expected.mean((2, 3))[0], atol=1e-5, rtol=1e-5)


def test_learning_leaves_the_last_stage_as_it_is() -> None:
    method = Selfie().prepare(INFO).train()
    network = method.encoder.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = method.configure_optimizers()
    method.loss(torch.rand(4, 3, 32, 32)).backward()
    optimiser.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("stage3")}


def test_all_of_the_network_can_be_fine_tuned() -> None:
    method = Selfie().prepare(INFO).requires_grad_(True)
    method.encode(torch.rand(4, 3, 32, 32))["embedding"].square().sum().backward()
    assert all(each.grad is not None for each in method.encoder.parameters())


def test_pictures_put_patches_of_the_image_into_the_holes() -> None:
    method = Selfie().prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    painted = method.painted(image)
    shown, true, found = (patchify(each, 8) for each in (painted["shown"], image, painted["reconstruction"]))
    hidden = (shown == GREY).all(2)
    assert hidden.sum(1).tolist() == [4, 4]
    for number in range(2):
        missing = true[number, hidden[number]]
        for patch in found[number, hidden[number]]:
            assert (patch - missing).abs().amax(1).min() < 1e-5
    torch.testing.assert_close(found[~hidden], true[~hidden], atol=1e-5, rtol=0)


def test_patches_are_cut_row_by_row() -> None:
    method = Selfie().prepare(INFO)
    image = torch.rand(1, 3, 32, 32)
    seen = []
    method.encoder.network["stem"].register_forward_hook(lambda _, args, __: seen.append(args[0]))
    method.patch_vectors(image)
    cut = rearrange(patchify(image, 8)[0], "n (p q c) -> n c p q", p=8, q=8)
    torch.testing.assert_close(seen[0] * method.encoder.std + method.encoder.mean, cut, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"patch": 0}, {"depth": 0}, {"heads": 0}, {"dropout": 1.0}],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        Selfie(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "size"),
    [({"patch": 8}, (32, 36)), ({"mask_ratio": 0.05}, (32, 32)), ({"heads": 5}, (32, 32)), ({}, (32, 8))],
)
def test_what_does_not_fit_is_refused(options: dict[str, float], size: tuple[int, int]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options), "size|mask_ratio")):
        Selfie(**options).prepare(pinakes.DataInfo(3, size))  # type: ignore[arg-type]


def test_a_transformer_is_refused() -> None:
    with pytest.raises(pinakes.UserError, match="backbone: pinakes/tiny_vit@random is no chain of stages"):
        Selfie("pinakes/tiny_vit@random").prepare(INFO)
