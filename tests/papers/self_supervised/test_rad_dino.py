"""Further training on grey images: where it starts, and what is adapted."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.nn.self_distillation import ViewTransformer
from pinakes.papers.self_supervised.dino import DINO
from pinakes.papers.self_supervised.rad_dino import CAPTIONED, GREY, WORDS, RadDINO, _FromCaptions, adapted
from pinakes.papers.self_supervised.simclr import SimCLR
from pinakes.scenes.forms import COLOURS
from pinakes.scenes.textures import TEXTURE_NAMES

TINY = {
    "embed_dim": 32,
    "depth": 1,
    "out_dim": 16,
    "hidden_dim": 32,
    "bottleneck_dim": 8,
    "local_crops_number": 1,
}
COLOUR, GREY_INFO = DataInfo(3, (16, 16)), DataInfo(1, (16, 16))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_grey_images_give_what_their_copies_in_colour_gave() -> None:
    torch.manual_seed(0)
    colour, grey = ViewTransformer((16, 16), 4, 3, 32, 1), ViewTransformer((16, 16), 4, 1, 32, 1)
    image = torch.rand(2, 1, 16, 16)
    grey.load_state_dict(adapted(colour.state_dict(), 1, (4, 4)))
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5)
    colour.load_state_dict(adapted(grey.state_dict(), 3, (4, 4)))
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5)


def test_weights_that_fit_stay_as_they_are_and_are_copies() -> None:
    encoder = ViewTransformer((16, 16), 4, 3, 32, 1)
    found = adapted(encoder.state_dict(), 3, (4, 4))
    assert same(found, encoder.state_dict())
    found["network.pos_embed"].zero_()
    assert encoder.network.pos_embed.any()


def test_positions_are_interpolated_for_another_size() -> None:
    encoder = ViewTransformer((16, 16), 4, 3, 32, 1)
    ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1).expand(1, 16, 32)
    encoder.network.pos_embed.data[:, 1:] = ramp
    places = adapted(encoder.state_dict(), 3, (8, 6))["network.pos_embed"]
    assert places.shape == (1, 1 + 48, 32)
    assert torch.equal(places[:, 0], encoder.network.pos_embed[:, 0])
    rows = places[0, 1:, 0].view(8, 6)
    assert (rows.diff(dim=0) > 0).all()
    torch.testing.assert_close(rows[:, :1].expand(8, 6), rows, atol=1e-4, rtol=0)


def test_other_channels_cannot_be_adapted() -> None:
    with pytest.raises(ValueError, match="channels: weights for 3 cannot be made fit for 4"):
        adapted(ViewTransformer((16, 16), 4, 3, 32, 1).state_dict(), 4, (4, 4))


def test_training_starts_with_the_encoder_of_a_run(tmp_path: Path) -> None:
    start = DINO(**TINY).fit("digits?n=10&size=16", steps=2, batch_size=4)
    start.save(tmp_path)
    method = RadDINO(start=str(tmp_path), **TINY).prepare(GREY_INFO)
    before = {name: value.clone() for name, value in method.head.state_dict().items()}
    method.ready(load_data("digits?n=10&size=16&channels=1"), TrainingPlan())
    expected = adapted(start.teacher.network.state_dict(), 1, (4, 4))
    assert same(method.encoder.state_dict(), expected)
    assert same(method.teacher.network.state_dict(), expected)
    assert same(method.head.state_dict(), before)


def test_a_start_of_another_form_is_refused(tmp_path: Path) -> None:
    start = DINO(**TINY).prepare(COLOUR)
    with pytest.raises(UserError, match="start: has depth 1, but 2 is asked for; set depth=1"):
        RadDINO(**(TINY | {"depth": 2})).prepare(COLOUR).begin_with(start)
    with pytest.raises(UserError, match="start: channels"):
        RadDINO(**TINY).prepare(DataInfo(4, (16, 16))).begin_with(start)
    SimCLR().prepare(COLOUR).save(tmp_path)
    with pytest.raises(UserError, match=r"start: .* holds a run of SimCLR"):
        RadDINO(start=str(tmp_path), **TINY).fit("digits?n=10&size=16", steps=1)


def test_views_of_grey_images_stay_grey() -> None:
    method = RadDINO(**TINY).prepare(COLOUR)
    image = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    for views in method.views(image):
        torch.testing.assert_close(views[:, :1].expand_as(views), views, atol=1e-5, rtol=0)


def test_captions_hold_colours_and_textures_and_no_shapes() -> None:
    assert (*COLOURS, *TEXTURE_NAMES) == WORDS


def test_the_baseline_of_the_claim_learns_from_captions_alone() -> None:
    spec = CAPTIONED.replace("n=2000", "n=8")
    method = _FromCaptions().fit(spec, steps=1, batch_size=4)
    with pytest.raises(UserError, match="attributes"):
        _FromCaptions().fit(GREY.replace("n=500", "n=8"), steps=1)
    assert method.evaluate(spec)["linear_probe"] >= 0


@pytest.mark.parametrize("option", [{"least_area": 0.0}, {"least_local_area": 0.9}])
def test_options_out_of_range_are_refused_by_name(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        RadDINO(**option)
