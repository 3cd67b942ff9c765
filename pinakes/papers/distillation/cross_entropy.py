r"""Bridle, Training Stochastic Model Recognition Algorithms as Networks can Lead to Maximum Mutual Information
Estimation of Parameters, NeurIPS 1989,
https://proceedings.neurips.cc/paper/1989/hash/0336dcbab05b9d5ad24f4333c7658a0e-Abstract.html.

The student alone, without a teacher: a softmax over the logits, and the logarithm of the probability that it gives
the true class. It is what every distillation must beat, and the way to a teacher of one's own: fitted with a larger
network, its run folder is the `teacher` of the other methods.

What the code follows, with logits z and true class t:

- L = -log(exp z_t / sum_k exp z_k).
"""

from pinakes.papers.distillation.base import Augmentation, Classifier

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
