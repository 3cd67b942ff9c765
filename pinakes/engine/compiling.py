"""Networks that are translated by `torch.compile` before they run, for any method."""

import functools
from typing import Any, TypeVar

from pinakes.data.base import DataInfo
from pinakes.method import Method

M = TypeVar("M", bound=Method)


def compiled(method: M, **options: Any) -> M:
    """Lets `torch.compile` translate the networks of a method; returns the method.

    A network is translated when it is first called, which takes seconds to minutes, and again for inputs of another
    shape; it pays on a GPU, in long training and for many samples. Where a method goes past a network's own call, to
    its parts, these run as before. What is saved is as without; what is learnt differs by rounding.

    Args:
        method: Fitted or not. When it is fitted anew, it is translated anew.
        **options: As `torch.compile` takes them: mode, backend, dynamic, ...

    Example:
        >>> import pinakes
        >>> faster = compiled(pinakes.create("ddpm"), mode="max-autotune")
    """
    method.build = functools.partial(_built, method, options)  # type: ignore[method-assign]
    if method.is_built:
        _compile(method, options)
    return method


def _built(method: Method, options: dict[str, Any], info: DataInfo) -> None:
    type(method).build(method, info)
    _compile(method, options)


def _compile(method: Method, options: dict[str, Any]) -> None:
    for network in method.children():
        network.compile(**options)
