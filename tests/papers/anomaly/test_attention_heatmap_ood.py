"""Attention weights against an independent computation, heat maps against naive loops, the autoencoder in training."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pinakes import DataInfo, UserError
from pinakes.engine.plan import TrainingPlan
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.anomaly.attention_heatmap_ood import (
    AttentionHeatmapOOD,
    PictureAutoencoder,
    PixelAutoencoderOOD,
    SoftmaxOfTheSameClassifier,
    as_picture,
    attention_heatmap,
    features_and_attention,
    last_attention,
    reconstruction_error,
)

CLASSES = ("a", "b", "c")
SMALL = "pinakes/tiny_vit@random"
WITH_CLASS_TOKEN = "timm/vit_tiny_patch16_224@random"


def random_attention(batch: int, heads: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, heads, tokens, tokens, generator=generator, dtype=torch.float64).softmax(-1)


def prepared(size: tuple[int, int] = (32, 32), channels: int = 3, **options: object) -> AttentionHeatmapOOD:
    method = AttentionHeatmapOOD(**{"backbone": SMALL, "width": 8, **options})  # type: ignore[arg-type]
    return method.prepare(DataInfo(channels, size, CLASSES))


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_the_heatmap_is_the_naive_mean_over_heads_and_queries(before: int, class_token: bool) -> None:
    if class_token and before == 0:
        return
    rows, columns, heads = 2, 3, 4
    attention = random_attention(2, heads, before + rows * columns)
    found = attention_heatmap(attention, (rows, columns), class_token=class_token)
    queries = [0] if class_token else range(before, before + rows * columns)
    for b in range(2):
        for i in range(rows):
            for j in range(columns):
                key = before + i * columns + j
                weights = [attention[b, h, q, key].item() for h in range(heads) for q in queries]
                assert found[b, i, j].item() == pytest.approx(sum(weights) / len(weights), abs=1e-12)


def test_attention_received_sums_to_one_where_there_are_only_patches() -> None:
    found = attention_heatmap(random_attention(3, 2, 12), (3, 4))
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "shape", "tokens"),
    [(SMALL, (2, 3, 40, 32), 20), (SMALL, (2, 1, 32, 61), 32), (WITH_CLASS_TOKEN, (1, 3, 224, 224), 197)],
)
def test_attention_is_the_softmax_of_queries_and_keys(name: str, shape: tuple[int, ...], tokens: int) -> None:
    torch.manual_seed(0)
    backbone, image = FeatureExtractor(name, (-1,), shape[1]).eval(), torch.rand(shape)
    attention = backbone.network.get_submodule("model.blocks")[-1].attn  # type: ignore[index]  # a Sequential
    projected: list[Tensor] = []
    handle = attention.qkv.register_forward_hook(lambda module, inputs, output: projected.append(output))
    with torch.no_grad():
        attention.fused_attn = True
        fused = backbone(image)[-1]
        projected.clear()
        features, weights = features_and_attention(backbone, image)
    handle.remove()
    assert weights.shape[2:] == (tokens, tokens)
    torch.testing.assert_close(features, fused, rtol=0, atol=1e-5)
    width = projected[0].shape[-1] // 3
    head = width // attention.num_heads
    for h in range(attention.num_heads):
        query = projected[0][..., h * head : (h + 1) * head]
        key = projected[0][..., width + h * head : width + (h + 1) * head]
        scores = torch.einsum("bqd,bkd->bqk", query, key) / math.sqrt(head)
        expected = scores.exp() / scores.exp().sum(-1, keepdim=True)
        torch.testing.assert_close(weights[:, h], expected, rtol=0, atol=1e-5)


def test_looking_leaves_no_hook_behind() -> None:
    backbone = FeatureExtractor(SMALL, (-1,))
    for _ in range(2):
        features_and_attention(backbone, torch.rand(1, 3, 32, 32))
    assert not last_attention(backbone).get_submodule("attn_drop")._forward_hooks


def test_the_picture_is_the_resized_map_over_its_maximum() -> None:
    heatmap = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    picture = as_picture(heatmap, 32)
    assert picture.shape == (3, 1, 32, 32)
    torch.testing.assert_close(picture.amax(dim=(1, 2, 3)), torch.ones(3))
    resized = nn.functional.interpolate(heatmap[:, None], (32, 32), mode="bilinear")
    torch.testing.assert_close(picture[1], resized[1] / resized[1].max())


def test_the_method_looks_at_the_map_of_its_classifier() -> None:
    method, image = prepared((40, 64)).eval(), torch.rand(2, 3, 40, 64)
    with torch.no_grad():
        logits, picture = method.look(image)
        torch.testing.assert_close(logits, method.classifier(image), rtol=0, atol=1e-5)
        attention = features_and_attention(method.classifier.backbone, image)[1]
    torch.testing.assert_close(picture, as_picture(attention_heatmap(attention, (5, 8)), 32))


def test_the_class_token_is_the_query_where_asked_for() -> None:
    method = prepared((224, 224), backbone=WITH_CLASS_TOKEN, class_token=True).eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        attention = features_and_attention(method.classifier.backbone, image)[1]
        expected = as_picture(attention[:, :, 0, 1:].mean(1).reshape(1, 14, 14), 32)
        torch.testing.assert_close(method.look(image)[1], expected)


def test_the_autoencoder_of_the_papers_size_is_the_authors_network() -> None:
    def layers(module: nn.Module) -> list[tuple[type, int, int, int, int]]:
        found = [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)]
        return [(type(c), c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in found]

    conv, up = nn.Conv2d, nn.ConvTranspose2d
    autoencoder = PictureAutoencoder()
    assert layers(autoencoder.encoder) == [
        (conv, 1, 32, 4, 2),
        (conv, 32, 32, 4, 2),
        (conv, 32, 32, 3, 1),
        (conv, 32, 64, 4, 2),
        (conv, 64, 64, 3, 1),
        (conv, 64, 128, 4, 2),
        (conv, 128, 64, 3, 1),
        (conv, 64, 32, 3, 1),
        (conv, 32, 512, 8, 1),
    ]
    assert layers(autoencoder.decoder) == [
        (up, 512, 32, 8, 1),
        (conv, 32, 64, 3, 1),
        (conv, 64, 128, 3, 1),
        (up, 128, 64, 4, 2),
        (conv, 64, 64, 3, 1),
        (up, 64, 32, 4, 2),
        (conv, 32, 32, 3, 1),
        (up, 32, 32, 4, 2),
        (up, 32, 1, 4, 2),
    ]


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_pictures_of_every_side_are_reconstructed_through_the_code(side: int) -> None:
    torch.manual_seed(0)
    autoencoder, picture = PictureAutoencoder(2, side, width=8, latent=5), torch.rand(3, 2, side, side)
    assert autoencoder.encoder(picture).shape == (3, 5, 1, 1)
    reconstruction = autoencoder(picture)
    assert reconstruction.shape == picture.shape
    reconstruction_error(reconstruction, picture).mean().backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_the_error_is_the_naive_mean_and_the_score_is_the_error() -> None:
    first, second = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for b, found in enumerate(reconstruction_error(first, second).tolist()):
        pairs = zip(first[b].flatten().tolist(), second[b].flatten().tolist(), strict=True)
        assert found == pytest.approx(sum((x - y) ** 2 for x, y in pairs) / 16, abs=1e-6)
    method, image = prepared(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        picture = method.eval().look(image)[1]
        expected = reconstruction_error(method.autoencoder(picture), picture)
    torch.testing.assert_close(method.predict(image)["score"], expected)


def blobs(rows: Tensor) -> Tensor:
    """Pictures with one bright spot, at half their width and the given heights."""
    places = torch.arange(32.0)
    down = (places[None] - rows[:, None]).square()
    across = (places - 16).square()
    return (-(down[:, :, None] + across) / 18).exp()[:, None]


def test_the_autoencoder_learns_familiar_pictures_and_no_others() -> None:
    method = prepared()
    familiar = blobs(torch.linspace(6, 14, 64))
    before = {name: value.clone() for name, value in method.classifier.state_dict().items()}
    method.learn_to_reconstruct(familiar, TrainingPlan(steps=120, batch_size=16))
    with torch.no_grad():
        seen, unseen = (
            reconstruction_error(method.autoencoder(picture), picture)
            for picture in (blobs(torch.linspace(6.5, 13.5, 9)), blobs(torch.linspace(21, 27, 9)))
        )
    assert seen.max() < 0.3 * unseen.min()
    for name, value in method.classifier.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in method.autoencoder.parameters())


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        (TrainingPlan(steps=7, batch_size=4), 7),
        (TrainingPlan(epochs=3, batch_size=4), 9),
        (TrainingPlan(steps=5, batch_size=64), 5),
    ],
)
def test_the_autoencoder_trains_for_the_plans_steps_or_epochs(plan: TrainingPlan, steps: int) -> None:
    taken = []
    handle = register_optimizer_step_post_hook(lambda *_: taken.append(1))
    prepared().learn_to_reconstruct(torch.rand(10, 1, 32, 32), plan)
    handle.remove()
    assert len(taken) == steps


def test_baselines_have_the_same_classifier() -> None:
    kinds = (AttentionHeatmapOOD, PixelAutoencoderOOD, SoftmaxOfTheSameClassifier)
    fitted = [
        kind(backbone=SMALL, width=8).fit("digits?n=40&far=none", steps=2, batch_size=8) for kind in kinds
    ]
    ours = fitted[0].classifier.state_dict()
    for other in fitted[1:]:
        for name, value in other.classifier.state_dict().items():
            assert torch.equal(value, ours[name]), name
    image = torch.rand(2, 3, 32, 32)
    answers = [method.predict(image) for method in fitted]
    assert all(torch.equal(answer["label"], answers[0]["label"]) for answer in answers)
    with torch.no_grad():
        picture = fitted[1].look(image)[1]
        probability = fitted[2].classifier(image).softmax(1).amax(1)
    torch.testing.assert_close(picture, image)
    torch.testing.assert_close(answers[2]["score"], -probability)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (45, 70), (96, 64)])
def test_images_of_any_size_and_channels_get_a_score(size: tuple[int, int], channels: int) -> None:
    method, image = prepared(size, channels), torch.rand(2, channels, *size)
    prediction = method.predict(image)
    method.task.check_prediction({"image": image}, prediction, method.info)


def test_a_backbone_without_attention_or_class_token_is_refused() -> None:
    with pytest.raises(UserError, match="vision transformer"):
        prepared(backbone="pinakes/tiny_conv@random")
    with pytest.raises(UserError, match="class_token"):
        prepared(class_token=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"side": 48}, "side"),
        ({"width": 0}, "width"),
        ({"latent": 0}, "latent"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"autoencoder_learning_rate": 0.0}, "autoencoder_learning_rate"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=f"^{named}"):
        AttentionHeatmapOOD(**options)  # type: ignore[arg-type]
    if named == "side":
        with pytest.raises(UserError, match="side"):
            PictureAutoencoder(side=48)
