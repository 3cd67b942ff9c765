"""The shelf's index: plain data, no heavy import."""

from pinakes.catalogue import Paper, Shelf

SHELF = Shelf(
    name="distillation",
    title="Knowledge distillation",
    papers=[
        Paper(
            slug="dkd",
            title="Decoupled Knowledge Distillation",
            authors="Zhao et al.",
            venue="CVPR 2022",
            link="arXiv:2203.08679",
            task="classification",
            method="dkd:DKD",
            idea="Weighs apart how sure a teacher is of the true class and how it ranks the others.",
        ),
        Paper(
            slug="cross-entropy",
            title="Training Stochastic Model Recognition Algorithms as Networks can Lead to Maximum Mutual Information "
            "Estimation of Parameters",
            authors="Bridle",
            venue="NeurIPS 1989",
            link="https://proceedings.neurips.cc/paper/1989/hash/0336dcbab05b9d5ad24f4333c7658a0e-Abstract.html",
            task="classification",
            method="cross_entropy:CrossEntropy",
            idea="A softmax and the logarithm of the true class's probability: the student alone, without a teacher.",
            baseline=True,
        ),
        Paper(
            slug="kd",
            title="Distilling the Knowledge in a Neural Network",
            authors="Hinton et al.",
            venue="2015",
            link="arXiv:1503.02531",
            task="classification",
            method="kd:KD",
            idea="The student learns the teacher's probabilities, softened by a temperature, beside the labels.",
            baseline=True,
        ),
    ],
)
