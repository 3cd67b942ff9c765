"""Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020, arXiv:2010.03759.

A softmax keeps only the differences between logits: images whose logits are all small can have as large a class
probability as those whose logits are all large. The free energy of the logits keeps their height, which a classifier
raises for what it was trained on. So the energy is the score, with nothing to train or to fit.

What the code follows:

- Section 2, `energy_score`: E(x) = -T log sum_k exp(z_k / T), with logits z and temperature T. Images of high energy
  are unknown (section 3.1).

Differences from the paper: left out is fine-tuning with a loss that bounds the energies of known and unknown images
(section 3.2), as it needs unknown images to train on. The paper recommends T = 1, which makes the score free of
parameters.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.anomaly.base import UnknownDetector
from pinakes.papers.anomaly.max_softmax import MaxSoftmax
from pinakes.tasks.base import Prediction

EQUATIONS = (("Section 2", r"E(x) = -T \log \sum_k e^{z_k / T}"),)
"""The equation above in LaTeX, for the documentation; its label opens an item of the list."""


def energy_score(logits: Float[Tensor, "batch classes"], temperature: float = 1.0) -> Float[Tensor, " batch"]:
    """The free energy of logits, higher where stranger.

    Args:
        logits: z, unnormalised.
        temperature: T, above 0; towards 0 the energy becomes minus the largest logit.

    Source: section 2.

    Example:
        >>> energy_score(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([-0.6931, -3.0486])
    """
    return -temperature * torch.logsumexp(logits / temperature, dim=1)


class EnergyDetector(UnknownDetector):
    """Scores images by the free energy of a classifier's logits.

    Args:
        temperature: T of the energy.
        backbone: Name of the network that is fine-tuned.
        learning_rate: Of AdamW.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        backbone: str = "pinakes/tiny_conv",
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(backbone, learning_rate)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        self.temperature = temperature

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        logits = self.classifier(image)
        return {"score": energy_score(logits, self.temperature), "label": logits.argmax(1)}


@claim(
    text="The energy of a classifier's logits tells unknown images from known ones better than its largest class "
    "probability.",
    where="abstract and table 1",
    higher_is_better=True,
)
def energy_beats_max_softmax(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out, and materials as far images; both sides train the same classifier."""
    return lab.duel(
        ours=EnergyDetector, baseline=MaxSoftmax, data="digits", metric="auroc", steps=100, batch_size=64
    )
