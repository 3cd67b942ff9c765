"""The contract that every method on the shelves keeps; a new paper is held to it by being in the catalogue."""

import ast
import functools
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import pinakes
from pinakes import tasks
from pinakes.catalogue import Paper, papers
from pinakes.data import load_data
from pinakes.data.base import TaskData
from pinakes.method import Method
from pinakes.tasks.base import Batch

PAPERS = papers()
METHODS = pytest.mark.parametrize("paper", PAPERS, ids=[paper.slug for paper in PAPERS])
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@functools.cache
def loaded(spec: str, task: str) -> TaskData:
    return load_data(spec, task=task)


def example(paper: Paper) -> TaskData:
    return loaded(paper.load().example_data or tasks.get(paper.task).example_data, paper.task)


@functools.cache
def fitted(slug: str, seed: int = 0) -> Method:
    paper = pinakes.find(slug)
    return pinakes.create(slug).fit(example(paper), steps=2, batch_size=4, seed=seed)


def some(paper: Paper, count: int = 3, split: str = "test") -> Batch:
    samples = dict(example(paper).splits())[split]
    return tasks.get(paper.task).collate([samples[index] for index in range(count)])


def trainable(paper: Paper) -> Method:
    method = pinakes.create(paper.slug)
    if type(method).training_step is Method.training_step:
        pytest.skip("has no gradient training")
    return method.prepare(example(paper).info)


@METHODS
def test_file_says_which_paper_it_is_and_documents_every_option(paper: Paper) -> None:
    method = paper.load()
    source = ast.get_docstring(ast.parse(inspect.getsource(inspect.getmodule(method))))  # type: ignore[arg-type]
    assert paper.title in source.replace("\n", " ")
    assert paper.link in source
    undocumented = [name for name in method.option_defaults() if f"{name}:" not in (method.__doc__ or "")]
    assert undocumented == []


@METHODS
def test_every_option_has_a_default(paper: Paper) -> None:
    assert inspect.Parameter.empty not in paper.load().option_defaults().values()


@METHODS
def test_task_is_the_one_the_catalogue_states(paper: Paper) -> None:
    assert paper.load().task_name == paper.task
    assert paper.load().paper() == paper


@METHODS
def test_prediction_is_as_the_task_states(paper: Paper) -> None:
    method, batch = fitted(paper.slug), some(paper)
    method.task.check_prediction(batch, method.predict(batch), method.info)


@METHODS
def test_predict_leaves_its_input_alone(paper: Paper) -> None:
    batch = some(paper)
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    fitted(paper.slug).predict(batch)
    for name, value in before.items():
        assert torch.equal(batch[name], value), name


@METHODS
def test_a_batch_of_one_gives_what_the_same_sample_gives_among_others(paper: Paper) -> None:
    method = fitted(paper.slug)
    together, alone = method.predict(some(paper, 3)), method.predict(some(paper, 1))
    for name, value in alone.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value[0], together[name][0], rtol=1e-4, atol=1e-5)
        else:
            assert value[0] == together[name][0], name


@METHODS
def test_same_seed_gives_the_same_method(paper: Paper) -> None:
    first = fitted(paper.slug)
    second = pinakes.create(paper.slug).fit(example(paper), steps=2, batch_size=4, seed=0)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@METHODS
def test_a_loaded_method_predicts_what_the_saved_one_did(paper: Paper, tmp_path: Path) -> None:
    method, batch = fitted(paper.slug), some(paper)
    method.save(tmp_path)
    expected, found = method.predict(batch), pinakes.load(tmp_path).predict(batch)
    assert sorted(expected) == sorted(found)
    for name, value in expected.items():
        same = torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name]
        assert same, name


@METHODS
def test_gradients_reach_every_trainable_parameter(paper: Paper) -> None:
    method = trainable(paper)
    method.train()
    batch = some(paper, 4, "train")

    def untouched() -> list[str]:
        torch.manual_seed(0)
        method.training_step(batch, 0).backward()
        return [n for n, p in trained.items() if p.grad is None or not p.grad.any()]

    trained = {name: each for name, each in method.named_parameters() if each.requires_grad}
    if untouched():
        # layers that start at zero let nothing through to others before they have moved
        with torch.no_grad():
            for each in trained.values():
                each.add_(0.01 * torch.randn_like(each))
        assert untouched() == []


@METHODS
def test_loss_falls_when_one_batch_is_repeated(paper: Paper) -> None:
    method = trainable(paper)
    method.train()
    optimiser = method.configure_optimizers()
    optimiser = optimiser["optimizer"] if isinstance(optimiser, dict) else optimiser
    batch = some(paper, 4, "train")
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        loss = method.training_step(batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[6:]) < losses[0]


@METHODS
@pytest.mark.parametrize("defect", ["channels", "nan", "empty", "tiny", "integers", "out of range"])
def test_bad_images_raise_an_error_that_names_them(paper: Paper, defect: str) -> None:
    method, batch = fitted(paper.slug), some(paper)
    for name, field in method.task.inputs.items():
        if field.dimensions[-2:] != ["height", "width"] or not field.dtype.is_floating_point:  # type: ignore[union-attr]
            continue
        image = batch[name]
        spoilt = {
            "channels": image[:, :1].repeat(1, image.shape[1] + 1, 1, 1),
            "nan": image.clone().index_fill_(0, torch.tensor([0]), torch.nan),
            "empty": image[:0],
            "tiny": image[..., : method.min_size - 1, :1],
            "integers": (image * 255).to(torch.uint8),
            "out of range": image * 255 + 2,
        }[defect]
        with pytest.raises(ValueError, match=name):
            method.predict(batch | {name: spoilt})


@METHODS
def test_fitting_and_predicting_touch_no_global_state(paper: Paper) -> None:
    def state() -> tuple[object, ...]:
        # Python's own generator is left out: the run-time type checker of the tests draws from it.
        return (
            torch.get_rng_state().sum().item(),
            np.random.get_state()[1].sum(),  # noqa: NPY002 - the global generator is what must stay untouched
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
        )

    before = state()
    method = pinakes.create(paper.slug).fit(example(paper), steps=1, batch_size=4)
    method.predict(some(paper))
    assert state() == before


@METHODS
def test_an_unfitted_method_says_so(paper: Paper) -> None:
    with pytest.raises(pinakes.UserError, match="not fitted"):
        pinakes.create(paper.slug).predict(some(paper))


@METHODS
def test_images_below_the_least_size_are_refused_before_fitting(paper: Paper) -> None:
    method = pinakes.create(paper.slug)
    info = example(paper).info
    with pytest.raises(pinakes.UserError, match="size"):
        method.prepare(pinakes.DataInfo(info.channels, (method.min_size - 1, 64), info.classes))


@CUDA
@METHODS
def test_works_on_the_device_it_is_put_on(paper: Paper) -> None:
    method = pinakes.create(paper.slug).fit(example(paper), steps=2, batch_size=4, device="cuda")
    batch = some(paper)
    prediction = method.predict(batch)
    assert all(value.is_cuda for value in prediction.values() if isinstance(value, torch.Tensor))
    method.task.check_prediction(batch, method.cpu().predict(batch), method.info)
