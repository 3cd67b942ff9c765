import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.self_supervised.protosim import (
    ProtoSim,
    PrototypeEncoder,
    clusters_of_tokens,
    prototype_logits,
    replaced,
    separation,
    two_sets,
)

INFO = pinakes.DataInfo(3, (32, 32))


def small(**options: object) -> ProtoSim:
    method = ProtoSim(num_prototypes=16, out_dim=32, **options)  # type: ignore[arg-type]
    return method.prepare(INFO)


def test_tokens_become_the_mean_of_prototypes_weighted_by_a_softmax() -> None:
    torch.manual_seed(0)
    tokens, prototypes = torch.randn(2, 3, 8), torch.randn(5, 8)
    found = replaced(prototype_logits(tokens, prototypes), prototypes, temperature=0.5, noisy=False)
    for image in range(2):
        for token in range(3):
            weights = torch.stack([(tokens[image, token] @ each / 0.5).exp() for each in prototypes])
            expected = sum(
                weight / weights.sum() * each for weight, each in zip(weights, prototypes, strict=True)
            )
            torch.testing.assert_close(found[image, token], expected, rtol=1e-5, atol=1e-5)


def test_with_noise_a_prototype_is_drawn_as_often_as_the_softmax_says() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 1.0, 0.0])
    drawn = replaced(logits.expand(1, 20_000, 3), torch.eye(3), hard=True)[0]
    assert torch.equal(drawn.sum(1), torch.ones(20_000))
    torch.testing.assert_close(drawn.mean(0), logits.softmax(0), rtol=0, atol=0.02)


@pytest.mark.parametrize("noisy", [True, False])
def test_a_hard_choice_is_one_prototype_and_has_the_gradients_of_a_soft_one(noisy: bool) -> None:
    prototypes = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    gradients = []
    for hard in (True, False):
        logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        torch.manual_seed(3)
        found = replaced(logits, prototypes, hard=hard, noisy=noisy)
        if hard:
            distance = torch.cdist(found.detach(), prototypes.expand(2, -1, -1))
            assert distance.amin(2).max() < 1e-5
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_in_evaluation_each_token_is_its_best_prototype() -> None:
    encoder = PrototypeEncoder(32, 10).eval()
    tokens = torch.randn(2, 5, 32)
    best = encoder.prototypes[encoder.assigned(tokens)]
    expected = encoder.block(best)
    torch.testing.assert_close(encoder(tokens), functional.layer_norm(expected, (32,)))
    torch.testing.assert_close(encoder(tokens), encoder(tokens))


def test_the_network_in_front_is_frozen_and_prototypes_block_and_head_are_trained() -> None:
    method = small()
    trained = {name.partition(".")[0] for name, each in method.named_parameters() if each.requires_grad}
    assert trained == {"encoder", "head"}
    method.train()
    method.loss(torch.rand(4, 3, 32, 32)).backward()
    assert not method.backbone.training
    assert all(each.grad is None for each in method.backbone.parameters())
    gradient = method.encoder.prototypes.grad
    assert gradient is not None
    assert (gradient.abs().sum(1) > 0).all()


@pytest.mark.parametrize(("done", "hard"), [(0.5, False), (0.8, True)])
def test_only_the_student_chooses_hard_and_only_late(
    done: float, hard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = small().train()
    monkeypatch.setattr(ProtoSim, "done", done)
    chosen = []
    for encoder in (method.encoder, method.teacher.network):
        encoder.register_forward_pre_hook(
            lambda _, __, options: chosen.append(options.get("hard", False)), with_kwargs=True
        )
    method.loss(torch.rand(2, 3, 32, 32))
    assert chosen == [False, hard]


def test_shares_count_the_tokens_that_select_a_prototype() -> None:
    method = small().eval()
    image = torch.rand(3, 3, 40, 48)
    shares = method.prototype_shares(image)
    chosen = method.encoder.assigned(method.tokens(method.sized(image)))
    for row, tokens in zip(shares, chosen, strict=True):
        for number in range(16):
            assert row[number] == pytest.approx((tokens == number).float().mean().item(), abs=1e-6)
    torch.testing.assert_close(shares.sum(1), torch.ones(3))


def test_two_sets_have_a_third_of_the_classes_in_common() -> None:
    label = torch.arange(6).repeat_interleave(2)
    second, own = two_sets(label, 6)
    assert own.tolist() == [True] * 8 + [False] * 4
    assert second.tolist() == [False] * 4 + [True] * 4 + [False, True] * 2


def test_prototypes_that_are_the_classes_tell_all_and_a_single_one_tells_nothing() -> None:
    label = torch.arange(6).repeat(20)
    perfect = torch.eye(6)[label]
    assert separation(perfect, perfect, label, label, 6) == 1
    blind = torch.ones(len(label), 1)
    assert separation(blind, blind, label, label, 6) == 0.5


def test_clusters_of_tokens_find_groups_that_lie_apart() -> None:
    centres = 10 * torch.eye(4)
    kinds = torch.arange(4).repeat(10)
    tokens = centres[kinds][:, None].expand(-1, 3, -1) + 0.1 * torch.randn(40, 3, 4)
    known, asked = clusters_of_tokens(tokens, tokens.flip(0), 4, seed=0)
    assert (known.amax(1) > 0.99).all()
    assert len(set(known.argmax(1).tolist())) == 4
    torch.testing.assert_close(asked, known.flip(0))


@pytest.mark.parametrize(
    "options",
    [
        {"num_prototypes": 1},
        {"out_dim": 1},
        {"temperature": 0.0},
        {"student_temp": 0.0},
        {"teacher_temp": -1.0},
        {"hard_from": 1.5},
        {"momentum": -0.1},
        {"local_crops_number": -1},
        {"least_local_area": 0.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        ProtoSim(**options)  # type: ignore[arg-type]
