import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.nn.contrastive import nt_xent_loss
from pinakes.papers.self_supervised.scatsimclr import ScatSimCLR, _AllLearnt, mixtures, pieces

INFO = pinakes.DataInfo(3, (32, 32))


def trained_numbers(method: ScatSimCLR) -> int:
    return sum(each.numel() for each in method.parameters() if each.requires_grad)


def test_pieces_are_those_of_a_loop() -> None:
    image = torch.rand(2, 1, 20, 30)
    expected = [
        functional.interpolate(
            image[n : n + 1, :, 6 * i : 6 * i + 6, 10 * j : 10 * j + 10], (20, 30), mode="bilinear"
        )
        for n in range(2)
        for i in range(3)
        for j in range(3)
    ]
    torch.testing.assert_close(pieces(image), torch.cat(expected))


def test_mixtures_differ_in_seven_places_or_more_and_begin_with_none() -> None:
    found = mixtures()
    assert found.shape == (35, 9)
    assert torch.equal(found[0], torch.arange(9))
    assert (found.sort(1).values == torch.arange(9)).all()
    distances = (found[:, None] != found).sum(2)
    assert distances[~torch.eye(35, dtype=torch.bool)].min() >= 7


def test_pieces_are_mixed_as_the_mixture_says(monkeypatch: pytest.MonkeyPatch) -> None:
    method = ScatSimCLR(pretext="jigsaw").prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    seen = []
    monkeypatch.setattr(
        method.pretext_head, "forward", lambda mixed: seen.append(mixed) or torch.zeros(2, 35)
    )
    monkeypatch.setattr(torch, "rand", lambda count, device: torch.full((count,), 5.5 / 35))
    assert method.jigsaw(image).exp() == pytest.approx(35, rel=1e-4)
    said = method.represent(pieces(image)).view(2, 9, -1)
    torch.testing.assert_close(seen[0], said[:, mixtures()[5]])


def test_loss_is_the_contrast_and_a_share_of_the_pretext(monkeypatch: pytest.MonkeyPatch) -> None:
    method = ScatSimCLR(pretext_weight=0.3, temperature=0.2).prepare(INFO).eval()
    monkeypatch.setattr(method, "view", lambda image: image)
    image = torch.rand(4, 3, 32, 32)
    said = method.project(image)
    contrast = nt_xent_loss(said, said, 0.2)
    turns = [image.rot90(quarters, (2, 3)) for quarters in range(4)]
    logits = torch.cat([method.pretext_head(method.represent(each)) for each in turns])
    told = functional.cross_entropy(logits, torch.arange(4).repeat_interleave(4))
    torch.testing.assert_close(method.loss(image), contrast + 0.3 * told, rtol=1e-4, atol=1e-5)


def test_the_pretext_counts_after_the_warm_up_only(monkeypatch: pytest.MonkeyPatch) -> None:
    method = ScatSimCLR(warm_up=0.1).prepare(INFO)
    asked = []
    monkeypatch.setattr(method, "rotation", lambda image: asked.append(None) or torch.zeros(()))
    for done, times in ((0.05, 0), (0.1, 1), (1.0, 2)):
        monkeypatch.setattr(type(method), "done", done)
        method.loss(torch.rand(2, 3, 32, 32))
        assert len(asked) == times


def test_nothing_of_the_scattering_is_trained() -> None:
    method = ScatSimCLR().prepare(INFO)
    assert not list(method.encoder.scattering.parameters())
    assert not [name for name in method.state_dict() if "scattering" in name]


def test_what_it_is_held_against_has_more_to_learn() -> None:
    ours, learnt = (each(pretext="none").prepare(INFO) for each in (ScatSimCLR, _AllLearnt))
    assert trained_numbers(ours) < trained_numbers(learnt)
    image = torch.rand(2, 3, 32, 32)
    shapes = {tuple(each.eval().encode(image)["embedding"].shape) for each in (ours, learnt)}
    assert shapes == {(2, 16 * 64)}


def test_images_that_cannot_be_scattered_or_turned_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="scales: images of 16x16"):
        ScatSimCLR(scales=4).prepare(pinakes.DataInfo(3, (16, 16)))
    with pytest.raises(pinakes.UserError, match="pretext: images of 32x48"):
        ScatSimCLR().prepare(pinakes.DataInfo(3, (32, 48)))
    method = ScatSimCLR(pretext="jigsaw").prepare(pinakes.DataInfo(1, (32, 48)))
    assert torch.isfinite(method.loss(torch.rand(2, 1, 32, 48)))


@pytest.mark.parametrize(
    "options",
    [
        {"pretext_weight": -0.1},
        {"warm_up": 1.0},
        {"scales": 0},
        {"angles": 0},
        {"width": 6},
        {"blocks": 3},
        {"hidden": 0},
        {"projection": 0},
        {"temperature": 0.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        ScatSimCLR(**options)  # type: ignore[arg-type]
