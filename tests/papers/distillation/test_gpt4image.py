import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

import pinakes
from pinakes.engine.plan import TrainingPlan
from pinakes.papers.distillation.classifier import labelled_cross_entropy
from pinakes.papers.distillation.gpt4image import (
    GPT4Image,
    Texts,
    attributes_in_words,
    contrastive_alignment,
    projection,
    read_descriptions,
)
from pinakes.scenes.labels.attributes import ATTRIBUTES

SCENES = "scenes:attributes?size=32&n=16"
QUICK = {"steps": 2, "batch_size": 8}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def names(count: int = 4) -> list[str]:
    return [f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(count)]


def test_alignment_is_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)

    def similarity(i: int, j: int) -> float:
        one, other = image[i].tolist(), text[j].tolist()
        product = sum(a * b for a, b in zip(one, other, strict=True))
        return product / math.hypot(*one) / math.hypot(*other) / 0.3

    expected = 0.0
    for i in range(5):
        own = math.exp(similarity(i, i))
        expected -= math.log(own / sum(math.exp(similarity(i, j)) for j in range(5))) / 10
        expected -= math.log(own / sum(math.exp(similarity(j, i)) for j in range(5))) / 10
    assert contrastive_alignment(image, text, 0.3).item() == pytest.approx(expected, abs=1e-12)


def test_gradients_of_the_alignment_are_those_of_finite_differences() -> None:
    image, text = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: contrastive_alignment(x, text), image.requires_grad_())


def test_texts_with_every_dimension_keep_the_angles_of_their_word_counts() -> None:
    texts = ["a red ball", "a red box", "two striped boxes", "a striped ball", "ball, box, red"]
    embeddings = Texts(texts, dimensions=64).embeddings
    counts = TfidfVectorizer(token_pattern=r"\b\w+\b").fit_transform(texts)
    torch.testing.assert_close(
        embeddings @ embeddings.T, torch.tensor((counts @ counts.T).toarray()).float(), rtol=0, atol=1e-5
    )
    assert Texts(texts, dimensions=2).embeddings.shape == (5, 2)
    torch.testing.assert_close(Texts(texts, dimensions=2).embeddings.norm(dim=1), torch.ones(5))


def test_texts_without_a_word_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="no word"):
        Texts(["...", "!"], 4)


def test_the_projection_is_that_of_the_paper() -> None:
    layers = projection(8, 32)
    assert [type(each).__name__ for each in layers] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [tuple(layers[i].weight.shape) for i in (0, 3)] == [(64, 8), (32, 64)]


def test_attributes_are_put_into_words() -> None:
    has = torch.tensor([float(name in ("round", "with a hole", "red", "striped")) for name in ATTRIBUTES])
    assert attributes_in_words(has) == "round, with a hole, red, striped"


def test_the_loss_is_cross_entropy_and_alignment_of_what_is_described() -> None:
    data = pinakes.load_data(f"{SCENES}&labelled=1", task="classification")
    method = GPT4Image(lamb=0.5, tau=0.1, augmentation="none").prepare(data.info)
    method.ready(data, TrainingPlan(steps=1))
    texts = [attributes_in_words(data.train[i]["attributes"]) for i in range(16)]
    embeddings = Texts(texts, 64).embeddings
    method.eval()
    batch = method.task.collate([data.train[i] for i in range(6)])
    said = method.answers(batch["image"])
    projected = method.helping(said.levels[-1].mean((2, 3)))  # type: ignore[misc]
    expected = labelled_cross_entropy(said.logits, batch["label"])
    expected = expected + 0.5 * contrastive_alignment(projected, embeddings[:6], 0.1)
    torch.testing.assert_close(method.training_step(batch, 0), expected)
    assert texts[0] not in texts[1:6]
    del method._rows[texts[0]]
    others = contrastive_alignment(projected[1:], embeddings[1:6], 0.1)
    torch.testing.assert_close(
        method.training_step(batch, 0), labelled_cross_entropy(said.logits, batch["label"]) + 0.5 * others
    )
    method._rows = {}
    torch.testing.assert_close(
        method.training_step(batch, 0), labelled_cross_entropy(said.logits, batch["label"])
    )


def test_only_the_network_is_kept() -> None:
    method = GPT4Image().fit(SCENES, **QUICK)
    alone = pinakes.create("cross-entropy").fit(SCENES, **QUICK)
    assert set(method.state_dict()) == set(alone.state_dict())
    assert method.helping is None


def test_where_there_is_no_description_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        GPT4Image().fit("digits?n=40", **QUICK)
    assert "names of the classes stand in" in caplog.text


def test_samples_may_carry_their_description() -> None:
    texts = ["a red ball", "a green ball", "a blue box", "a box"]
    samples = [
        {"image": torch.rand(3, 32, 32), "label": torch.tensor(i % 2), "description": text}
        for i, text in enumerate(texts)
    ]
    method = GPT4Image().prepare(pinakes.DataInfo(3, (32, 32), ("a", "b")))
    data = pinakes.TaskData(spec="mine", layout="", train=samples, test=samples, info=method.info)
    method.ready(data, TrainingPlan(steps=1))
    assert list(method._rows) == texts
    torch.testing.assert_close(method._embeddings, Texts(texts, 64).embeddings)


def test_a_csv_file_describes_images(photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "words.csv"
    lines = [f'{name},"a picture, the number {i}"' for i, name in enumerate(names())]
    file.write_text("\n".join(["path,description", *lines]))
    assert read_descriptions(file)["train/cat/1.png"] == "a picture, the number 1"
    method = GPT4Image(str(file)).fit(str(photographs), **QUICK)
    assert list(method._rows) == names()
    assert method._embeddings.shape == (8, 8)


def test_embeddings_in_a_file_are_used_as_they_are(photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "clip.jsonl"
    rows = [{"path": name, "embedding": [i, 1, 0.5]} for i, name in enumerate(names())]
    file.write_text("\n".join(map(json.dumps, rows)))
    method = GPT4Image(str(file)).fit(str(photographs), **QUICK)
    torch.testing.assert_close(method._embeddings[3], torch.tensor([3.0, 1.0, 0.5]))


def test_images_without_a_description_are_counted(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "words.jsonl"
    file.write_text("\n".join(json.dumps({"path": name, "description": name}) for name in names()[:5]))
    with caplog.at_level(logging.WARNING):
        GPT4Image(str(file)).fit(str(photographs), **QUICK)
    assert "3 of 8 training images have no description, such as train/dog/1.png" in caplog.text


def test_descriptions_of_other_images_are_refused(photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "words.csv"
    file.write_text("path,description\nelsewhere.png,a cat\n")
    with pytest.raises(pinakes.UserError, match=r"elsewhere\.png.*train/cat/0\.png"):
        GPT4Image(str(file)).fit(str(photographs), **QUICK)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("words.txt", "a", "ends in"),
        ("words.csv", "image,words\na.png,a cat\n", "entry 1"),
        ("words.csv", "path,description\na.png,\n", "entry 1"),
        ("words.csv", "path,description\na.png,cat\na.png,dog\n", "entry 2.*second time"),
        ("words.csv", "path,description\n", "at least one"),
        ("words.jsonl", '{"path": "a.png", "description": "a cat"}\n[1]\n', "entry 2"),
        ("words.jsonl", "{path", "cannot be read"),
        ("words.jsonl", '{"path": "a", "embedding": [1, 2]}\n{"path": "b", "embedding": [1]}\n', "one size"),
        (
            "words.jsonl",
            '{"path": "a", "embedding": [1, 2]}\n{"path": "b", "description": "x"}\n',
            "one size",
        ),
        ("words.jsonl", '{"path": "a", "embedding": [1, "x"]}\n', "entry 1"),
        ("words.jsonl", '{"path": "a", "embedding": [1, NaN]}\n', "entry 1"),
    ],
)
def test_a_file_that_is_not_as_stated_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(pinakes.UserError, match=message):
        read_descriptions(tmp_path / name)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pinakes.UserError, match="cannot be read"):
        read_descriptions(tmp_path / "none.csv")


@pytest.mark.parametrize("options", [{"lamb": -1.0}, {"tau": 0.0}, {"dimensions": 0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        GPT4Image(**options)  # type: ignore[arg-type]
