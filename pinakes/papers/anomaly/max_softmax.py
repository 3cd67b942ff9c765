"""Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks,
ICLR 2017, arXiv:1610.02136.

A classifier tends to be surer of images like those it was trained on. So the largest of its class probabilities tells,
without any further training, what it does not know.

What the code follows, with logits z:

- Section 2: score = -max_k softmax(z)_k.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.anomaly.base import UnknownDetector
from pinakes.tasks.base import Prediction

EQUATIONS = (("Section 2", r"s = -\max\limits_k \operatorname{softmax}(z)_k"),)
"""The equation above in LaTeX, for the documentation."""


def max_softmax_score(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """How unsure a classifier is: minus its largest class probability, from -1 to -1 / classes.

    Source: section 2.

    Example:
        >>> max_softmax_score(torch.tensor([[0.0, 0.0], [0.0, 100.0]]))
        tensor([-0.5000, -1.0000])
    """
    return -logits.softmax(dim=1).amax(dim=1)


class MaxSoftmax(UnknownDetector):
    """Scores images by the largest class probability of a classifier.

    Args:
        backbone: Name of the network that is fine-tuned.
        learning_rate: Of AdamW.
    """

    def __init__(self, backbone: str = "pinakes/tiny_conv", learning_rate: float = 1e-3) -> None:
        super().__init__(backbone, learning_rate)

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        logits = self.classifier(image)
        return {"score": max_softmax_score(logits), "label": logits.argmax(1)}


class Chance(MaxSoftmax):
    """The same classifier with scores that say nothing."""

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """A constant score for all images."""
        return super().strangeness(image) | {"score": torch.zeros(len(image), device=image.device)}


@claim(
    text="The largest class probability tells unknown classes from known ones better than chance.",
    where="abstract and table 1",
    higher_is_better=True,
)
def softmax_beats_chance(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out; chance is 0.5."""
    return lab.duel(ours=MaxSoftmax, baseline=Chance, data="digits?far=none", metric="auroc")
