r"""Bridle, Training Stochastic Model Recognition Algorithms as Networks can Lead to Maximum Mutual Information
Estimation of Parameters, NeurIPS 1989,
https://proceedings.neurips.cc/paper/1989/hash/0336dcbab05b9d5ad24f4333c7658a0e-Abstract.html.

The student alone, without a teacher: a softmax over the logits, and the logarithm of the probability that it gives
the true class. It is what every distillation must beat, and the way to a teacher of one's own: fitted with a larger
network, its run folder is the `teacher` of the other methods.

What the code follows, with logits z and true class t:

- Softmax and its logarithm: L = -log(exp z_t / sum_k exp z_k).
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN
from pinakes.papers.distillation.classifier import Augmentation, Classifier
from pinakes.tasks.base import Batch

EQUATIONS = (("Softmax and its logarithm", r"L = -\log \frac{e^{z_t}}{\sum_k e^{z_k}}"),)
"""The equation above in LaTeX, for the documentation; its label opens an item of the list."""


class CrossEntropy(Classifier):
    """A network trained by the cross-entropy of its labels.

    Args:
        student: Name of the network that is trained, as `pinakes.nn.backbones` reads it.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        student: str = "pinakes/resnet8s2",
        learning_rate: float = 2e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(student, learning_rate, augmentation)


class _SquaredError(CrossEntropy):
    """The same network, trained by the squared error of its probabilities."""

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        logits = self.answers(self.augmented(batch["image"])).logits
        wanted = functional.one_hot(batch["label"], logits.shape[1]).to(logits.dtype)
        return (logits.softmax(1) - wanted).square().sum(1).mean()


@claim(
    text="The logarithm of the true class's probability trains a more accurate network than the squared error that it "
    "replaces.",
    where="abstract and section 2, which replace the one by the other",
    higher_is_better=True,
)
def log_score_beats_squared_error(lab: Lab) -> Trial:
    """Made scenes of single objects; both sides train a small residual network with a softmax."""
    return lab.duel(
        ours=CrossEntropy, baseline=_SquaredError, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN
    )
