"""What every published method can do: fit, predict, evaluate, save, load."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from pinakes import tasks
from pinakes.catalogue import Paper, papers
from pinakes.data import load_data, load_images
from pinakes.data.base import DataInfo, SampleSet, TaskData
from pinakes.engine import training
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.runs import load_tensors, read_run, write_run
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError, suggest
from pinakes.nn.backbones import without_weights
from pinakes.tasks.base import Batch, Evaluation, Observer, Prediction, Task

DataLike = str | Path | TaskData | tuple[SampleSet, DataInfo]
"""What `fit` and `evaluate` take: a spec or path, loaded data, or your own data set with its info."""

Inputs = Tensor | Mapping[str, Any] | str | Path | Sequence[str | Path] | SampleSet
"""What `predict` takes: images, a batch, image files or folders, or a data set."""


class Method(LightningModule):
    """A published method behind the interface that all share. Papers subclass it, usually through their shelf's base.

    A subclass states its `task`, takes the paper's hyper-parameters in `__init__` (every one with a default) and
    gives:

    - `build(info)`: make the networks, now that channels, size and classes are known;
    - `predict_step(batch, batch_idx=0)`: a batch to the prediction that the task states;
    - either `training_step` and `configure_optimizers`, as any LightningModule, or `learn(data, plan)` for methods
      with a loop of their own (memory banks, bilevel search, optimisation of one scene).

    Tensors that fitting makes (a memory bank, thresholds) are registered as buffers; they may change shape and are
    saved and loaded like weights.

    Example:
        >>> import pinakes
        >>> detector = pinakes.create("patchcore").fit("textures?size=32&n=8")
        >>> sorted(detector.predict(torch.rand(2, 3, 32, 32)))
        ['map', 'score']
    """

    task_name: ClassVar[str]
    """The task that states what batches and predictions hold, a module of `pinakes.tasks`."""
    min_size: ClassVar[int] = 8
    """The smallest height or width of an image that the method takes, in pixels."""
    min_images: ClassVar[int] = 1
    """The fewest training samples that the method can be fitted on."""
    training_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 1}
    """Training settings that suit the method where the user gives none."""
    needs: ClassVar[Mapping[str, str]] = {}
    """Fields of training samples, beyond what the task states, that the method learns from, and what each is."""
    example_data: ClassVar[str] = ""
    """A spec of small built-in data that has what the method needs, where the task's example lacks it."""
    export_obstacle: ClassVar[str] = ""
    """Why the method cannot be exported as a graph; an empty string where it can."""

    options: dict[str, Any]
    info: DataInfo

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        method = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(None, *args, **kwargs)
        bound.apply_defaults()
        values = dict(list(bound.arguments.items())[1:])
        object.__setattr__(method, "options", values)
        return method

    def __init__(self) -> None:
        super().__init__()

    @property
    def task(self) -> Task:
        """The task that states what batches and predictions hold."""
        return tasks.get(self.task_name)

    @classmethod
    def paper(cls) -> Paper | None:
        """The catalogue's entry for this class, or None for a class of your own."""
        name = f"{cls.__module__}:{cls.__name__}"
        return next((p for p in papers() if f"{p.module}:{p.method.partition(':')[2]}" == name), None)

    @classmethod
    def option_defaults(cls) -> dict[str, Any]:
        """The paper's hyper-parameters with their defaults, by name."""
        signature = inspect.signature(cls.__init__)
        return {name: each.default for name, each in list(signature.parameters.items())[1:]}

    @property
    def is_built(self) -> bool:
        """Whether the networks exist: after `fit`, `prepare` or `load`."""
        return "info" in self.__dict__

    # -- what a subclass gives -------------------------------------------------------------------------------

    def build(self, info: DataInfo) -> None:
        """Makes the networks and buffers for data of this form. Called once, before fitting or loading."""

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Answers a checked batch on the method's device; gradients are off and the method is in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} gives no predict_step")

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Gets what the built method learns from besides the data, such as a trained teacher; by default nothing.

        It does not count as learning: in a claim both sides may need it, and only one may find it ready.
        """

    def learnt_from(self) -> dict[str, "Method"]:
        """Fitted methods that this one learnt from, by name, which belong beside it in a comparison."""
        return {}

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Fits the built method. The default trains `training_step` with the engine."""
        training.train(self, data, plan)

    def divide(self, data: TaskData, plan: TrainingPlan) -> tuple[TaskData, SampleSet | None]:
        """What `learn` is to see, and what it must not see because `calibrate` needs it; by default all, and none."""
        return data, None

    def calibrate(self, samples: SampleSet, plan: TrainingPlan) -> None:
        """Finds, with the fitted method, what only unseen samples tell, such as a threshold."""

    def finish(self, prediction: Prediction) -> Prediction:
        """Adds to what `predict_step` answered what calibration allows to say; by default nothing."""
        return prediction

    # -- the verbs -------------------------------------------------------------------------------------------

    @classmethod
    def check_info(cls, info: DataInfo) -> None:
        """Makes sure that the method takes data of this form.

        Raises:
            UserError: If the images are too small for it.
        """
        if min(info.size) < cls.min_size:
            raise UserError(
                f"size: {cls.__name__} needs images of at least {cls.min_size} pixels, got "
                f"{info.size[0]}x{info.size[1]}; give a larger size"
            )

    def prepare(self, info: DataInfo, *, seed: int = 0) -> Self:
        """Makes the networks for data of this form, from a seed; `fit` does this by itself.

        Raises:
            UserError: If the images are too small for the method.
        """
        self.check_info(info)
        with isolated(seed):
            self.build(info)
        self.info = info
        return self

    def fit(self, data: DataLike, **settings: Any) -> Self:
        """Fits the method and returns it.

        Args:
            data: A spec ("textures", "mvtec:parts?size=128"), a path, a `TaskData`, or (samples, info) for a data
                set of your own whose items are dicts as the task states.
            **settings: Any field of `TrainingPlan`: epochs, steps, batch_size, seed, device, out, ...

        Raises:
            UserError: If the data or a setting cannot be used.
        """
        plan = TrainingPlan().settled(self.training_defaults, settings)
        loaded, held_out = self.divide(self._load(data), plan)
        if len(loaded.train) < self.min_images:
            raise UserError(
                f"{loaded.spec}: has {len(loaded.train)} training samples, but {type(self).__name__} needs at least "
                f"{self.min_images}; add images"
            )
        self.prepare(loaded.info, seed=plan.seed)
        first = self.task.collate([loaded.train[0]])
        self.task.check_batch(first, loaded.info)
        for name, about in self.needs.items():
            if name not in first:
                raise UserError(
                    f"{loaded.spec}: {type(self).__name__} learns from {about} ('{name}'), which these data lack; "
                    f"data such as {self.example_data or self.task.example_data} have it"
                )
        training.claim(self, loaded, plan)
        self.to(torch_device(plan.device))
        with isolated(plan.seed):
            self.ready(loaded, plan)
        with isolated(plan.seed):
            self.learn(loaded, plan)
            self.eval()
            if held_out is not None:
                self.calibrate(held_out, plan)
        if plan.out is not None:
            self.save(plan.out)
        return self

    def predict(
        self, inputs: Inputs, *, batch_size: int = 32, tile: int | None = None, overlap: int | None = None
    ) -> Prediction:
        """Answers images, a batch, files or a data set; large images tile by tile, if wanted.

        Args:
            inputs: Images (batch, channels, height, width) or one (channels, height, width) in [0, 1]; a dict as
                the task states; an image file, a folder or a list of them; or a data set.
            batch_size: Samples at a time, for files and data sets; tiles at a time.
            tile: Side in pixels of the squares of the original image that are each stretched to the method's size.
                A score of the image is then that of its worst tile; a map has the image's own resolution.
            overlap: Pixels that neighbouring tiles share; by default a quarter of `tile`.

        Returns:
            What the task states: for tensors and batches on the method's device, else gathered on the CPU. With
            `tile`, as `pinakes.engine.tiling.predict_tiled` says.

        Raises:
            UserError: If the method is not fitted, or its answers cannot be put together from tiles.
            ValueError: If a batch is not as the task states; the message names the field.
        """
        if not self.is_built:
            raise UserError(f"{type(self).__name__} is not fitted yet; call fit, or load a fitted one")
        if tile is not None:
            # imported by name: how large images are cut is not code that claims depend on
            tiling = importlib.import_module("pinakes.engine.tiling")
            answer: Prediction = tiling.predict_tiled(
                self, inputs, tiling.Tiling(tile, overlap), batch_size=batch_size
            )
            return answer
        if overlap is not None:
            raise UserError("overlap: is that of tiles; give tile as well")
        if isinstance(inputs, Tensor):
            inputs = {"image": inputs[None] if inputs.ndim == 3 else inputs}
        if isinstance(inputs, Mapping):
            return self._predict_batch(dict(inputs))
        if isinstance(inputs, str | Path):
            inputs = [inputs]
        samples = load_images(inputs, self.info) if isinstance(inputs, list | tuple) else inputs
        loader: DataLoader[Batch] = DataLoader(samples, batch_size=batch_size, collate_fn=self.task.collate)  # type: ignore[arg-type]  # any map-style set serves
        parts = [self._predict_batch(batch) for batch in loader]
        return {name: _join([part[name] for part in parts]) for name in parts[0]}

    def evaluate(self, data: DataLike, *, split: str = "test", **settings: Any) -> dict[str, float]:
        """Judges the fitted method and returns the metrics of its task by name.

        Args:
            data: As for `fit`.
            split: "test", "val" or "train".
            **settings: `batch_size` and `workers`, as `Task.evaluate` takes them.
        """
        return self.evaluate_fully(data, split=split, **settings).metrics

    def evaluate_fully(
        self,
        data: DataLike,
        *,
        split: str = "test",
        batch_size: int = 32,
        workers: int = 0,
        observe: Observer | None = None,
    ) -> Evaluation:
        """As `evaluate`, with the breakdown by group and a callback for each batch."""
        if not self.is_built:
            raise UserError(f"{type(self).__name__} is not fitted yet; call fit, or load a fitted one")
        loaded = self._load(data, size=self.info.size)
        if loaded.channels != self.info.channels:
            raise UserError(
                f"{loaded.spec}: has {loaded.channels} channels, but the method was fitted on {self.info.channels}; "
                f"add ?channels={self.info.channels} to the spec"
            )
        if loaded.classes and self.info.classes and loaded.classes != self.info.classes:
            raise UserError(
                f"{loaded.spec}: has the classes {', '.join(loaded.classes)}, but the method was fitted on "
                f"{', '.join(self.info.classes)}; give data with the same classes"
            )
        if split not in dict(loaded.splits()):
            raise UserError(
                f"{loaded.spec}: has no part called '{split}'{suggest(split, dict(loaded.splits()))}"
            )
        samples = dict(loaded.splits())[split]
        self.task.check_test(samples)
        return self.task.evaluate(self, samples, batch_size=batch_size, workers=workers, observe=observe)

    def save(self, folder: str | Path) -> Path:
        """Writes weights (safetensors) and what is needed to build the method again (JSON) to a run folder.

        Raises:
            UserError: If the method is not fitted or the folder cannot be written.
        """
        if not self.is_built:
            raise UserError(f"{type(self).__name__} is not fitted yet; there is nothing to save")
        paper = self.paper()
        return write_run(
            Path(folder),
            slug=paper.slug if paper else type(self).__name__,
            options=self.options,
            info=self.info,
            tensors=self.state_dict(),
        )

    def export(self, path: str | Path, **settings: Any) -> Any:
        """Writes the fitted method as a plain graph, ONNX or TorchScript, and a JSON that describes it.

        Args:
            path: The file to write.
            **settings: `to`, `size` and `tolerance`, as `pinakes.engine.export.export` takes them.

        Returns:
            The files written, and how far each output of the graph was from the method's when it was checked.

        Raises:
            UserError: If the method is not fitted, cannot be exported, or the graph does not agree with it.
        """
        # imported by name: how a method is passed on is not code that its results depend on
        return importlib.import_module("pinakes.engine.export").export(self, path, **settings)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> Self:
        """Makes the method again that `save` wrote to a run folder.

        Raises:
            UserError: If the folder holds no run, a damaged one, or one of another method.
        """
        run = read_run(Path(folder))
        paper = cls.paper()
        expected = paper.slug if paper else cls.__name__
        if run.slug != expected:
            raise UserError(f"{folder}: holds a run of '{run.slug}', not of '{expected}'")
        method = cls(**run.options)
        with without_weights():
            method.prepare(run.info)
        try:
            load_tensors(method, run.tensors)
        except RuntimeError as error:
            raise UserError(
                f"{folder}: the weights do not fit this version of the method: {error}"
            ) from error
        return method.to(torch_device(device)).eval()

    def _repr_html_(self) -> str:
        # imported by name: how a thing is shown in a notebook is not code that its results depend on
        html: str = importlib.import_module("pinakes.report.notebook").of_method(self)
        return html

    # -- inside ----------------------------------------------------------------------------------------------

    def _load(self, data: DataLike, *, size: tuple[int, int] | None = None) -> TaskData:
        if isinstance(data, tuple):
            samples, info = data
            data = TaskData(
                spec="your own data set", layout="given as it is", train=samples, test=samples, info=info
            )
        return load_data(data, task=self.task, size=size)

    def _predict_batch(self, batch: Batch) -> Prediction:
        self.task.check_batch(batch, self.info)
        image = batch.get("image")
        if isinstance(image, Tensor) and min(image.shape[-2:]) < self.min_size:
            raise ValueError(
                f"image: {type(self).__name__} needs at least {self.min_size} pixels a side, got {tuple(image.shape)}"
            )
        moved = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self.finish(self.predict_step(moved))
        finally:
            self.train(was_training)


def _join(parts: list[Any]) -> Any:
    return (
        torch.cat([p.cpu() for p in parts]) if isinstance(parts[0], Tensor) else [x for p in parts for x in p]
    )
