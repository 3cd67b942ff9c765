"""Which prototypes the images of two collections have in common: those of a method, or clusters of its embeddings.

A method that has prototypes of its own gives `prototype_shares`, a function of images (batch, channels, height, width)
that says how much of each image every prototype takes, (batch, prototypes), which sums to 1 for each image. For any
other method the embeddings of both collections are clustered together.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array, vstack
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin_min
from torch import Tensor
from torch.nn import functional

from pinakes.collections.embeddings import Embedded, answered, embed, name_of
from pinakes.collections.images import Images, open_images
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.tasks.base import Batch

OWN = "prototype_shares"
"""What a method gives that has prototypes of its own."""

DIRECTIONS = 50
"""Principal directions that are looked at to cluster, at most."""
CLUSTERED = 20_000
"""Images of each collection that clusters are made from, at most; the others are assigned to them."""
PART = 4096
"""Rows that are worked on at a time in double precision."""
STARTS = 4
"""How often k-means is started; the best end counts."""
FEWEST, MOST = 2, 200
"""Clusters, where nobody says how many."""


@dataclass(frozen=True)
class Assigned:
    """Two collections, and which prototypes their images have.

    Args:
        images: The two collections.
        shares: For each collection (images, prototypes), how much of an image a prototype takes; rows sum to 1.
        likeness: Where a share is above 0, how well the image shows the prototype; high is good.
        method: The method, as the catalogue calls it.
        about: Where the prototypes come from.
    """

    images: tuple[Images, Images]
    shares: tuple[csr_array, csr_array]
    likeness: tuple[csr_array, csr_array]
    method: str
    about: str


def assign(
    method: Method,
    sources: tuple[str | Path, str | Path],
    *,
    prototypes: int | None = None,
    skip_bad: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = False,
) -> Assigned:
    """Assigns the images of two collections to prototypes: the method's own, else clusters of embeddings.

    Args:
        method: A fitted method of the task `representation`.
        sources: Folders of any layout, or data specs.
        prototypes: How many clusters, at least 2; by default the root of half the number of images. Only for methods
            without prototypes of their own.
        skip_bad: Leave out files that cannot be used, and list them.
        batch_size: Images at a time.
        workers: Processes that load images; 0 loads in this one.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If there is no image, a file cannot be used, or the number of prototypes is out of place.
    """
    own = getattr(method, OWN, None)
    check_prototypes(prototypes)
    loading: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
    if own is None:
        first, second = (embed(method, source, skip_bad=skip_bad, **loading) for source in sources)
        return clustered(first, second, prototypes)
    if prototypes is not None:
        raise UserError("prototypes: the method has its own, whose number is given; leave the option out")
    one, other = (open_images(source, method.info, skip_bad=skip_bad) for source in sources)
    shares = tuple(_shares(method, images, own, loading) for images in (one, other))
    return Assigned((one, other), shares, shares, name_of(method), "prototypes of the method")


def clustered(first: Embedded, second: Embedded, prototypes: int | None = None) -> Assigned:
    """Assigns embeddings of two collections to the nearest of the centres of k-means, for which both count alike.

    Embeddings are first turned to their principal directions, of which the 50 with most variance are kept and divided
    by the fourth root of their variance, so that neither the strongest alone nor noise decides; then to length 1.

    Args:
        first: A collection.
        second: Another one, by the same method.
        prototypes: How many clusters; by default as in `assign`.

    Raises:
        UserError: If there are fewer images than prototypes.
    """
    counts = [len(each.embedding) for each in (first, second)]
    if prototypes is None:
        prototypes = min(max(round((sum(counts) / 2) ** 0.5), FEWEST), MOST)
    if sum(counts) < prototypes:
        raise UserError(f"prototypes: {prototypes} are asked for, and there are {sum(counts)} images")
    sides = [
        side.cpu().numpy() for side in evened(*(each.embedding.to(each.device) for each in (first, second)))
    ]
    seen = [side[:: -(-len(side) // CLUSTERED)] for side in sides]
    weight = np.concatenate([np.full(len(side), 1 / len(side)) for side in seen])
    with warnings.catch_warnings():
        # fewer different images than clusters: some then stay empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(prototypes, n_init=STARTS, random_state=0).fit(
            np.concatenate(seen), sample_weight=weight
        )
    found = [pairwise_distances_argmin_min(side, model.cluster_centers_) for side in sides]
    return Assigned(
        (first.images, second.images),
        tuple(_one_each(place, np.ones_like(distance), prototypes) for place, distance in found),
        tuple(_one_each(place, 1 / (1 + distance), prototypes) for place, distance in found),
        first.method,
        f"{prototypes} clusters of embeddings",
    )


def evened(*sides: Float[Tensor, "_rows width"]) -> list[Float[Tensor, "_rows directions"]]:
    """Rows in their principal directions, whose standard deviations are replaced by their roots, at length 1.

    Args:
        *sides: Rows of several collections, which count alike however many they have.
    """
    mean = torch.stack([side.mean(0) for side in sides]).mean(0)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for side in sides:
        for part in (side - mean).split(PART):
            covariance += part.double().mT @ part.double() / (len(side) * len(sides))
    variance, directions = (each.flip(-1) for each in torch.linalg.eigh(covariance))
    kept = int((variance[:DIRECTIONS] > 1e-10 * variance[0]).sum())
    if variance[0] <= 1e-12 or not kept:  # all rows are the same
        return [torch.zeros_like(side[:, :1]) for side in sides]
    turn = (directions[:, :kept] / variance[:kept].pow(0.25)).to(mean.dtype)
    return [functional.normalize((side - mean) @ turn, dim=1) for side in sides]


def check_prototypes(prototypes: int | None) -> None:
    """Makes sure that a number of prototypes is 2 or more, or None.

    Raises:
        UserError: If not.
    """
    if prototypes is not None and prototypes < FEWEST:
        raise UserError(f"prototypes: expected a whole number of {FEWEST} or more, got {prototypes}")


def _shares(
    method: Method, images: Images, own: Callable[[Tensor], Tensor], loading: dict[str, Any]
) -> csr_array:
    """What a method says of its own prototypes, of which an image has few."""
    method.eval()
    parts: list[csr_array] = []
    for found in answered(method, images, partial(_asked, method, own), **loading):
        if not found.isfinite().all():
            raise UserError(f"{images.source}: prototypes of an image are not finite; fit the method again")
        parts.append(csr_array(found.numpy()))
    return csr_array(vstack(parts))


@torch.no_grad()
def _asked(method: Method, own: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return own(batch["image"].to(method.device))


def _one_each(place: np.ndarray, value: np.ndarray, columns: int) -> csr_array:
    """A matrix with one value in each row."""
    return csr_array((value, place, np.arange(len(place) + 1)), shape=(len(place), columns))
