"""Pictures of what a masked network was shown and what it painted."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pinakes.nn.masked_autoencoder import CENTRE, SPREAD, patchify, unpatchify

GREY = 0.5


def shown_and_painted(
    image: Float[Tensor, "batch channels height width"],
    painted: Float[Tensor, "batch patches values"],
    hidden: Bool[Tensor, "batch patches"],
    patch: int,
    norm_pix_loss: bool,
) -> dict[str, Tensor]:
    """Images with grey patches where something is hidden, as `shown`, and with painted ones, as `reconstruction`.

    Args:
        image: The images, in [0, 1].
        painted: The patches as the network gives them to `pinakes.nn.masked_autoencoder.reconstruction_loss`.
        hidden: Whether a patch is hidden; visible ones are shown as they are.
        patch: Side of a patch in pixels.
        norm_pix_loss: Whether the network paints patches of mean 0 and variance 1; the true ones are then put in.
    """
    true = patchify(image, patch)
    if norm_pix_loss:
        spread, centre = torch.var_mean(true, dim=2, keepdim=True)
        found = painted * (spread + 1e-6 * SPREAD**2).sqrt() + centre
    else:
        found = painted * SPREAD + CENTRE
    covered = hidden[:, :, None]
    size = (image.shape[-2], image.shape[-1])
    return {
        "shown": unpatchify(torch.where(covered, torch.full_like(true, GREY), true), patch, size),
        "reconstruction": unpatchify(torch.where(covered, found, true), patch, size).clamp(0, 1),
    }
