"""A fitted method as a plain graph, from an image to the prediction, for runtimes that know neither Pinakes nor Python.

The graph is recorded by `torch.export` with the batch left open, and written as ONNX or TorchScript. A method whose
code settles things by the number of images (a loop over chunks, `len`) is recorded for one image instead, and the
written graph goes through a batch image by image. What was written is read again and held against the method itself
before it is kept.
"""

import importlib.metadata
import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pinakes.data.base import DataInfo
from pinakes.data.spec import check_size
from pinakes.engine.runs import load_tensors, write_whole
from pinakes.errors import UserError, suggest
from pinakes.nn.backbones import without_weights
from pinakes.tasks.base import Field

if TYPE_CHECKING:
    from pinakes.method import Method

Format = Literal["onnx", "torchscript"]
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt"}
NEEDS: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "torchscript": ()}

OPSET = 18
"""The version of ONNX's operators that torch translates to directly; onnxruntime has it since 1.14."""

TOLERANCE = 1e-4
MEASURE = (
    "largest absolute difference divided by the output's largest absolute value; of whole numbers and of true and "
    "false, the share that differs"
)
CHECKED_BATCHES = (1, 3, 2)
"""Numbers of images in the batches of a check."""

LARGEST_IN_ONE_FILE = 2**30
"""Bytes of weights above which ONNX keeps them in a file beside the graph; its format ends at 2 GiB."""

Run = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Output:
    """One output of an exported graph.

    Args:
        name: The task's name for it.
        about: What it is, as the task states.
        shape: Its dimensions: names where their size is open, else numbers.
        dtype: The type of its numbers.
        scale: The largest absolute value in the check.
        difference: How far the graph was from the method in the check, as `MEASURE` says.
    """

    name: str
    about: str
    shape: tuple[str | int, ...]
    dtype: str
    scale: float
    difference: float


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Args:
        file: The graph.
        description: The JSON beside it: what goes in, what comes out, and how it was checked.
        outputs: The outputs with their differences.
        one_by_one: Whether the graph goes through a batch image by image.
    """

    file: Path
    description: Path
    outputs: tuple[Output, ...]
    one_by_one: bool


def export(
    method: "Method",
    path: str | Path,
    *,
    to: Format = "onnx",
    size: int | tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Writes a fitted method as a graph with one input, `image`, and the task's prediction as named outputs.

    The number of images in a batch is open, their size is not. Beside the graph, `PATH.json` says what a deployer needs
    to know. The file is read again, by onnxruntime or by TorchScript, and must agree with the method on random images,
    smooth and noisy, of the graph's size, before it takes its place.

    Args:
        method: A fitted method of any task that answers images.
        path: The file to write, usually `.onnx` or `.pt`.
        to: "onnx" or "torchscript"; the latter's outputs are a dict by name.
        size: Side, or height and width, of the images in pixels; by default what the method was fitted on.
        tolerance: The largest difference allowed, as `MEASURE` says.

    Raises:
        UserError: If the method is not fitted, cannot be exported or answers nothing that can; a package is missing;
            the file cannot be written; or the graph differs from the method, in which case nothing is written.

    Example:
        >>> import pinakes
        >>> detector = pinakes.load("runs/parts")  # doctest: +SKIP
        >>> export(detector, "parts.onnx").outputs[0].name  # doctest: +SKIP
        'score'
    """
    path = Path(path)
    check_format(to)
    _check_request(method)
    frozen = _frozen(method, size)
    height, width = frozen.info.size
    example = torch.rand(2, frozen.info.channels, height, width, generator=torch.Generator().manual_seed(0))
    names = _output_names(frozen, example)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder, _quiet():
            part = Path(folder) / path.name
            program, one_by_one = _recorded(frozen, names, example)
            write, read = WRITERS[to], READERS[to]
            one_by_one = write(program, names, part, one_by_one)
            outputs = _compared(frozen, names, read(part, names), tolerance)
            for each in Path(folder).iterdir():
                each.replace(path.parent / each.name)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another file") from error
    description = path.with_name(f"{path.name}.json")
    facts = _description(frozen, path, to, outputs, tolerance, one_by_one)
    write_whole(description, json.dumps(facts, indent=2).encode())
    return Exported(path, description, outputs, one_by_one)


def check_format(to: str) -> str:
    """The format, if it is one.

    Raises:
        UserError: If it is none, or a package that writes or reads it is not installed.
    """
    if to not in SUFFIXES:
        raise UserError(f"to: '{to}' is no format{suggest(to, SUFFIXES)}")
    missing = [name for name in NEEDS[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{to} needs {', '.join(missing)}; pip install 'pinakes[export]'")
    return to


def _check_request(method: "Method") -> None:
    kind = type(method).__name__
    if not method.is_built:
        raise UserError(f"{kind} is not fitted yet; call fit, or load a fitted one")
    if method.export_obstacle:
        raise UserError(f"{kind} cannot be exported: {method.export_obstacle}")
    needed = {name for name, field in method.task.inputs.items() if not field.optional}
    if needed != {"image"}:
        raise UserError(
            f"{kind} cannot be exported: it answers {', '.join(sorted(needed))}, and a graph takes one image"
        )


def _frozen(method: "Method", size: int | tuple[int, int] | None) -> "Method":
    """The method again, on the CPU, for images of one size."""
    info = method.info if size is None else replace(method.info, size=check_size(size))
    copy = type(method)(**method.options)
    copy.check_info(info)
    with without_weights():
        copy.prepare(method.info)
    load_tensors(copy, {name: value.cpu() for name, value in method.state_dict().items()})
    copy.info = info
    return copy.eval().requires_grad_(False)


def _output_names(method: "Method", example: Tensor) -> list[str]:
    """The fields that the method answers and the task states, but for words, which no graph can hold.

    Raises:
        UserError: If one is no tensor with one entry for each image.
    """
    stated = method.task.prediction
    answer = {
        name: value
        for name, value in method.predict(example).items()
        if name in stated and stated[name].dtype is not str
    }
    for name, value in answer.items():
        if not isinstance(value, Tensor) or stated[name].dimensions[:1] != ["batch"]:
            raise UserError(
                f"{type(method).__name__} cannot be exported: it answers '{name}' ({stated[name].about}), "
                "which is no tensor with one entry for each image"
            )
    return list(answer)


class _Answer(nn.Module):
    """From images to the named values of the prediction, in order."""

    def __init__(self, method: "Method", names: list[str]) -> None:
        super().__init__()
        self.method = method
        self.names = names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        answer = self.method.finish(self.method.predict_step({"image": image}))
        return tuple(answer[name] for name in self.names)


class _KnownBuffers(TorchFunctionMode):
    """Lets code that is recorded read numbers out of buffers: what fitting found is constant in a graph."""

    READS: ClassVar[Mapping[Any, Callable[[np.ndarray], Any]]] = {
        Tensor.item: np.ndarray.item,
        Tensor.tolist: np.ndarray.tolist,
        Tensor.__bool__: lambda value: bool(value.item()),
        Tensor.__int__: lambda value: int(value.item()),
        Tensor.__float__: lambda value: float(value.item()),
        Tensor.__index__: lambda value: int(value.item()),
    }

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.known = {
            name: (value.float() if value.dtype.is_floating_point else value).numpy()
            for name, value in module.named_buffers()
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.READS:
            name = next((name for name, each in self.module.named_buffers() if each is args[0]), None)
            if name is not None:
                return self.READS[func](self.known[name])
        return func(*args, **(kwargs or {}))


def _recorded(method: "Method", names: list[str], example: Tensor) -> tuple[ExportedProgram, bool]:
    """The method's graph, and whether it is that of a single image."""
    graph = _Answer(method, names)
    with torch.no_grad(), _KnownBuffers(graph):
        try:
            shapes = {"image": {0: Dim("batch")}}
            return torch.export.export(graph, (example,), dynamic_shapes=shapes, strict=False), False
        except Exception:  # whatever stands against an open batch, the graph of one image may be free of it
            try:
                return torch.export.export(graph, (example[:1],), strict=False), True
            except Exception as error:
                reason = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"{type(method).__name__} cannot be exported: its code depends on the values of an image in a "
                    f"way that no graph can follow ({reason})"
                ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the exporters say to developers of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_onnx(program: ExportedProgram, names: list[str], path: Path, one_by_one: bool) -> bool:
    try:
        written = torch.onnx.export(
            program.run_decompositions({torch.ops.aten.searchsorted.Tensor: _searchsorted}),
            dynamo=True,
            input_names=["image"],
            output_names=names,
            opset_version=OPSET,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0]
        raise UserError(f"ONNX cannot say what this method computes ({reason}); try torchscript") from error
    assert written is not None
    model = _looped(written.model_proto) if one_by_one else _named_batch(written.model_proto)
    import onnx

    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    onnx.save(model, path, save_as_external_data=size > LARGEST_IN_ONE_FILE, location=f"{path.name}.data")
    return one_by_one


def _searchsorted(
    sorted_sequence: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """`torch.searchsorted` by counting, for ONNX, which has no such operator."""
    if sorter is not None:
        sorted_sequence = sorted_sequence.gather(-1, sorter)
    rows, sought = sorted_sequence.unsqueeze(-2), values.unsqueeze(-1)
    before = rows <= sought if right or side == "right" else rows < sought
    return before.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _named_batch(model: Any) -> Any:
    """Calls the open dimension of input and outputs "batch"."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _looped(model: Any) -> Any:
    """From a graph of one image to one of a batch, by ONNX's Scan: its body is the graph, without the first axis."""
    from onnx import TensorProto, compose, helper

    body = compose.add_prefix(model, "one_image/").graph
    axis = helper.make_tensor("first_axis", TensorProto.INT64, [1], [0])
    outer, inner = [], []
    for value, its in zip(
        (*model.graph.input, *model.graph.output), (*body.input, *body.output), strict=True
    ):
        kind = value.type.tensor_type
        sizes = [dimension.dim_value for dimension in kind.shape.dim][1:]
        outer.append(helper.make_tensor_value_info(value.name, kind.elem_type, ["batch", *sizes]))
        inner.append(helper.make_tensor_value_info(f"{its.name}/row", kind.elem_type, sizes))
    image, outputs = body.input[0].name, [value.name for value in body.output]
    added = helper.make_node("Unsqueeze", [f"{image}/row", axis.name], [image])
    removed = [helper.make_node("Squeeze", [name, axis.name], [f"{name}/row"]) for name in outputs]
    loop = helper.make_graph(
        [added, *body.node, *removed],
        "one_image",
        inner[:1],
        inner[1:],
        initializer=[*body.initializer, axis],
    )
    scan = helper.make_node(
        "Scan", ["image"], [value.name for value in outer[1:]], body=loop, num_scan_inputs=1
    )
    return helper.make_model(
        helper.make_graph([scan], "batch", outer[:1], outer[1:]),
        opset_imports=model.opset_import,
        functions=model.functions,
        ir_version=model.ir_version,
    )


class _Named(nn.Module):
    """A recorded graph whose outputs come by name."""

    def __init__(self, graph: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.graph = graph
        self.names = names

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.graph(image), strict=True))


class _OneByOne(nn.Module):
    """Goes through a batch with the graph of one image."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        answers: dict[str, list[Tensor]] = {}
        for index in range(image.shape[0]):
            answer: dict[str, Tensor] = self.graph(image[index : index + 1])
            for name, value in answer.items():
                if name not in answers:
                    answers[name] = []
                answers[name].append(value)
        joined: dict[str, Tensor] = {}
        for name, values in answers.items():
            joined[name] = torch.cat(values)
        return joined


def _write_torchscript(program: ExportedProgram, names: list[str], path: Path, one_by_one: bool) -> bool:
    assert program.example_inputs is not None
    (example,), _ = program.example_inputs
    if any("sym_size" in str(node.target) for node in program.graph.nodes):
        one_by_one = True  # the tracer settles every size that the program reads
    if one_by_one:
        example = example[:1]
    graph = torch.jit.trace(program.module(), (example,), check_trace=False)
    named = torch.jit.trace(_Named(graph, names), (example,), check_trace=False, strict=False)
    torch.jit.save(torch.jit.script(_OneByOne(named)) if one_by_one else named, str(path))
    return one_by_one


def _read_onnx(path: Path, names: list[str]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> dict[str, Tensor]:
        values = session.run(names, {"image": image.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def _read_torchscript(path: Path, names: list[str]) -> Run:
    graph = torch.jit.load(str(path))

    def run(image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            answer: dict[str, Tensor] = graph(image)
        return answer

    return run


WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript}
READERS = {"onnx": _read_onnx, "torchscript": _read_torchscript}


def fresh_images(info: DataInfo, batches: tuple[int, ...] = CHECKED_BATCHES) -> Iterator[Tensor]:
    """Random images of the stated form, the same at every call: noise, and noise smoothed to spots of many sizes."""
    generator = torch.Generator().manual_seed(1)
    for number, count in enumerate(batches):
        cells = [max(2, side // 2 ** (3 * (number % 2))) for side in info.size]
        noise = torch.rand(count, info.channels, *cells, generator=generator)
        yield functional.interpolate(noise, size=info.size, mode="bilinear", align_corners=False)
    yield torch.rand(batches[0], info.channels, *info.size, generator=generator)


def _compared(method: "Method", names: list[str], run: Run, tolerance: float) -> tuple[Output, ...]:
    """Holds a graph against the method.

    Raises:
        UserError: If an output differs; names it and says by how much.
    """
    expected: dict[str, list[Tensor]] = {name: [] for name in names}
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for image in fresh_images(method.info):
        answer, made = method.predict(image), run(image)
        for name in names:
            if (made[name].shape, made[name].dtype) != (answer[name].shape, answer[name].dtype):
                raise UserError(
                    f"the exported graph is not the method: of {len(image)} images '{name}' is {made[name].dtype} "
                    f"{tuple(made[name].shape)}, and should be {answer[name].dtype} {tuple(answer[name].shape)}"
                )
            expected[name].append(answer[name].flatten())
            found[name].append(made[name].flatten())
    outputs = []
    for name in names:
        truth = torch.cat(expected[name])
        difference, scale = difference_of(torch.cat(found[name]), truth)
        if not difference <= tolerance:
            raise UserError(
                f"the exported graph is not the method: '{name}' differs by {difference:.2g}, where at most "
                f"{tolerance:.2g} is allowed ({MEASURE}); nothing was written"
            )
        field, one = method.task.prediction[name], answer[name]
        outputs.append(
            Output(name, field.about, _shape(field, one), _dtype_name(one.dtype), scale, difference)
        )
    return tuple(outputs)


def difference_of(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """How far two tensors are apart, as `MEASURE` says, and the largest absolute value of the expected one.

    Example:
        >>> difference_of(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 5.0]))
        (0.1, 5.0)
        >>> difference_of(torch.tensor([True, False]), torch.tensor([True, True]))
        (0.5, 1.0)
    """
    scale = expected.double().abs().max().item()
    if not expected.dtype.is_floating_point:
        return (found != expected).double().mean().item(), scale
    apart = (found.double() - expected.double()).abs().max().item()
    return (apart / scale if scale else apart), scale


def _shape(field: Field, value: Tensor) -> tuple[str | int, ...]:
    return ("batch", *value.shape[1:]) if field.dimensions else tuple(value.shape)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _description(
    method: "Method", path: Path, to: str, outputs: tuple[Output, ...], tolerance: float, one_by_one: bool
) -> dict[str, Any]:
    """What a deployer needs to know, as JSON values."""
    from pinakes import __version__

    paper, info, image = method.paper(), method.info, method.task.inputs["image"]
    stated = method.task.prediction
    runtime = "onnxruntime" if to == "onnx" else "torch"
    return {
        "pinakes": __version__,
        "method": paper.slug if paper else type(method).__name__,
        "task": method.task.name,
        "file": path.name,
        "format": to,
        **({"opset": OPSET} if to == "onnx" else {}),
        "input": {
            "name": "image",
            "about": image.about,
            "shape": ["batch", info.channels, *info.size],
            "dtype": "float32",
            "range": [image.low, image.high],
            "channels": "RGB" if info.channels == 3 else info.channels,
            "resizing": "stretched to height and width, bilinear with antialiasing",
        },
        "outputs": [
            asdict(each) | {"range": [stated[each.name].low, stated[each.name].high]} for each in outputs
        ],
        "classes": list(info.classes),
        "batches": "image by image" if one_by_one else "all images at once",
        "check": {
            "against": f"{runtime} {importlib.metadata.version(runtime)}",
            "images": sum(len(each) for each in fresh_images(info)),
            "tolerance": tolerance,
            "difference": MEASURE,
        },
    }
