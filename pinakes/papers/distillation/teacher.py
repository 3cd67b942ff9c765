"""Teachers: loaded from a run, asked, and their answers kept."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

import pinakes
from pinakes.data.base import DataInfo, TaskData
from pinakes.data.views import View
from pinakes.errors import UserError
from pinakes.papers.distillation.classifier import Answer, Classifier


def answered(teacher: Classifier, image: Float[Tensor, "batch channels height width"]) -> Answer:
    """What a fitted method says of images: without gradients, in half precision on a GPU, in the size it was fitted on.

    Args:
        teacher: The method; it is moved to the device of the images.
        image: Images in [0, 1].
    """
    if teacher.device != image.device:
        teacher.to(image.device)
    if teacher.info.size != tuple(image.shape[-2:]):
        image = functional.interpolate(image, teacher.info.size, mode="bilinear", antialias=True)
    half = image.device.type == "cuda"
    with torch.no_grad(), torch.autocast(image.device.type, torch.float16, enabled=half):
        found = teacher.answers(image)
    return Answer([level.float() for level in found.levels], found.logits.float())


class KeptAnswers:
    """What a teacher said of images that are shown in the same way each time, so that it is asked once of each.

    The answers stay in the machine's memory, not the GPU's.

    Example:
        >>> kept = KeptAnswers()
        >>> ask = lambda image: print(len(image), "asked") or Answer([image], image.mean((2, 3)))
        >>> image = torch.rand(3, 3, 4, 4)
        >>> first = kept(ask, image, torch.tensor([7, 8, 9]))
        3 asked
        >>> again = kept(ask, image[:2], torch.tensor([7, 8]))
        >>> torch.equal(again.logits, first.logits[:2])
        True
    """

    def __init__(self) -> None:
        self._of: dict[int, list[Tensor]] = {}

    def __call__(
        self,
        ask: Callable[[Tensor], Answer],
        image: Float[Tensor, "batch channels height width"],
        index: Int[Tensor, " batch"],
    ) -> Answer:
        """What the teacher says of a batch.

        Args:
            ask: Asks the teacher of images.
            image: Images in [0, 1].
            index: Their places in the training set, by which they are known again.
        """
        places = index.tolist()
        unknown = [row for row, place in enumerate(places) if place not in self._of]
        if unknown:
            found = ask(image[unknown])
            columns = [each.cpu() for each in (*found.levels, found.logits)]
            for row, said in zip(unknown, zip(*columns, strict=True), strict=True):
                self._of[places[row]] = [each.clone() for each in said]
        rows = zip(*(self._of[place] for place in places), strict=True)
        *levels, logits = [torch.stack(each).to(image.device) for each in rows]
        return Answer(levels, logits)


def numbered(data: TaskData) -> TaskData:
    """The same data, whose training samples know their place in the training set, as "index"."""
    places = range(len(data.train))
    return replace(data, train=View([(data.train, place) for place in places], {"index": places}))


def loaded_teacher(folder: str, info: DataInfo, task: str = "classification") -> Classifier:
    """The teacher in a run folder.

    Args:
        folder: The run.
        info: What the student is built for.
        task: The task of both.

    Raises:
        UserError: If it is no such method of this shelf, or one of other classes or channels.
    """
    found = pinakes.load(folder)
    if not isinstance(found, Classifier) or found.task_name != task:
        raise UserError(
            f"teacher: {folder} holds a run of {type(found).__name__}, not of a method of this shelf for {task}; "
            "fit a teacher with one of those"
        )
    if found.info.classes != info.classes:
        raise UserError(
            f"teacher: {folder} knows the classes {', '.join(found.info.classes)}, but the data has "
            f"{', '.join(info.classes)}"
        )
    if found.info.channels != info.channels:
        raise UserError(
            f"teacher: {folder} takes {found.info.channels} channels, but the data has {info.channels}; add "
            f"?channels={found.info.channels} to the spec"
        )
    return found
