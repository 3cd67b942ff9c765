"""Hendrycks et al., Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022, arXiv:1911.11132.

Where there are many classes, some are alike, and a softmax divides its probability among them: a known image of one of
two similar classes looks as unsure as an unknown one. The largest logit, before any normalisation, does not suffer from
that.

What the code follows:

- `max_logit_score`: score = -max_k z_k, with logits z.

Differences from the paper: its settings are large, with up to a thousand classes, with several labels an image, or
with a class for each pixel. Here images have one class, and the score is the same.
"""

from jaxtyping import Float
from torch import Tensor

from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.anomaly.base import UnknownDetector
from pinakes.papers.anomaly.max_softmax import MaxSoftmax
from pinakes.tasks.base import Prediction

EQUATIONS = (("`max_logit_score`", r"s = -\max\limits_k z_k"),)
"""The equation above in LaTeX, for the documentation; its label opens an item of the list."""


def max_logit_score(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Minus the largest logit, higher where stranger.

    Args:
        logits: z, unnormalised.

    Example:
        >>> import torch
        >>> max_logit_score(torch.tensor([[0.0, -1.0], [3.0, 5.0]]))
        tensor([-0., -5.])
    """
    return -logits.amax(dim=1)


class MaxLogit(UnknownDetector):
    """Scores images by the largest logit of a classifier.

    Args:
        backbone: Name of the network that is fine-tuned.
        learning_rate: Of AdamW.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, backbone: str = "pinakes/tiny_conv", learning_rate: float = 1e-3) -> None:
        super().__init__(backbone, learning_rate)

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        logits = self.classifier(image)
        return {"score": max_logit_score(logits), "label": logits.argmax(1)}


@claim(
    text="A classifier's largest logit tells unknown images from known ones better than its largest class probability.",
    where="abstract",
    higher_is_better=True,
)
def max_logit_beats_max_softmax(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out, and materials as far images; both sides train the same classifier.

    Seven known classes are few for a method whose point is many.
    """
    return lab.duel(
        ours=MaxLogit, baseline=MaxSoftmax, data="digits", metric="auroc", steps=100, batch_size=64
    )
