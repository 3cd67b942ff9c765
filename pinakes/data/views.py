"""Samples of other data sets, chosen and relabelled: hold-outs, classes left out, a few anomalies moved to training."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from pinakes.data.base import Sample, SampleSet


class View(Dataset[Sample]):
    """Some samples of one or more data sets, in any order, with some fields set anew.

    What the sets state of themselves (labels, kinds, paths, a fingerprint), the view states of its samples.

    Args:
        picks: For each sample its set and its place there.
        fields: Values by name, one a sample, that take the place of the sample's own.
        keep: The names of a sample's own fields to keep; all by default. Samples of several sets need fields in common.

    Example:
        >>> numbers = [{"n": torch.tensor(i)} for i in range(5)]
        >>> view = View([(numbers, 3), (numbers, 1)], {"kind": ["odd", "odd"]})
        >>> view[0]
        {'n': tensor(3), 'kind': 'odd'}
    """

    def __init__(
        self,
        picks: Sequence[tuple[SampleSet, int]],
        fields: Mapping[str, Sequence[Any]] | None = None,
        *,
        keep: Sequence[str] | None = None,
    ) -> None:
        self.picks = tuple(picks)
        self.fields = {name: tuple(values) for name, values in (fields or {}).items()}
        self.keep = None if keep is None else frozenset(keep)

    @property
    def labels(self) -> tuple[int | None, ...]:
        """The label of each sample."""
        return self._stated("label", labels_of)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each sample."""
        return self._stated("kind", kinds_of)

    @property
    def paths(self) -> tuple[str, ...]:
        """The name of each sample."""
        return self._stated("path", lambda part: getattr(part, "paths", range(len(part))))

    @property
    def groups(self) -> tuple[str, ...]:
        """What each sample is a part of."""
        parts = self._parts()
        if not any(hasattr(part, "groups") for part in parts.values()):
            return tuple(str(index) for index in range(len(self)))
        known = {key: (number, groups_of(part)) for number, (key, part) in enumerate(parts.items())}
        return tuple(f"{known[id(part)][0]}/{known[id(part)][1][index]}" for part, index in self.picks)

    def fingerprint(self) -> str:
        """Changes when the sets, the choice or the fields do."""
        parts = self._parts()
        own = [getattr(part, "fingerprint", lambda: "")() for part in parts.values()]
        numbers = {key: number for number, key in enumerate(parts)}
        chosen = [(numbers[id(part)], index) for part, index in self.picks]
        return hashlib.sha256(repr((own, chosen, sorted(self.fields.items()))).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, index: int) -> Sample:
        part, place = self.picks[index]
        sample = part[place]
        own = sample if self.keep is None else {k: v for k, v in sample.items() if k in self.keep}
        return own | {name: _as_sampled(values[index]) for name, values in self.fields.items()}

    def _parts(self) -> dict[int, SampleSet]:
        return {id(part): part for part, _ in self.picks}

    def _stated(self, name: str, read: Any) -> tuple[Any, ...]:
        if name in self.fields:
            return self.fields[name]
        values = {key: read(part) for key, part in self._parts().items()}
        return tuple(values[id(part)][index] for part, index in self.picks)


def _as_sampled(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, bool | int) else value


def chosen(part: SampleSet, indices: Sequence[int]) -> View:
    """The samples of a set at these places."""
    return View([(part, index) for index in indices])


def labels_of(part: SampleSet) -> Sequence[int | None]:
    """The label of each sample, None where it has none; looks at every sample if the set does not state them."""
    stated: Sequence[int | None] | None = getattr(part, "labels", None)
    if stated is not None:
        return stated
    found = [part[index].get("label") for index in range(len(part))]
    return [None if label is None else int(label) for label in found]


def kinds_of(part: SampleSet) -> Sequence[str]:
    """The kind of each sample, "" where it has none; looks at every sample if the set does not state them."""
    stated: Sequence[str] | None = getattr(part, "kinds", None)
    if stated is not None:
        return stated
    return [str(part[index].get("kind", "")) for index in range(len(part))]


def groups_of(part: SampleSet) -> Sequence[str]:
    """What each sample is a part of, such as the image of a tile; where the set states nothing, each is its own."""
    stated: Sequence[str] | None = getattr(part, "groups", None)
    return stated if stated is not None else [str(index) for index in range(len(part))]
