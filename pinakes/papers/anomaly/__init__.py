"""The shelf of anomaly and out-of-distribution detection."""

from pinakes.catalogue import Paper, Shelf

SHELF = Shelf(
    name="anomaly",
    title="Anomaly and out-of-distribution detection",
    papers=[
        Paper(
            slug="patchcore",
            title="Towards Total Recall in Industrial Anomaly Detection",
            authors="Roth et al.",
            venue="CVPR 2022",
            link="arXiv:2106.08265",
            task="anomaly",
            method="patchcore:PatchCore",
            idea="A coreset of pretrained patch features of normal images; the distance to the nearest is the score.",
        ),
        Paper(
            slug="reverse-distillation",
            title="Anomaly Detection via Reverse Distillation from One-Class Embedding",
            authors="Deng and Li",
            venue="CVPR 2022",
            link="arXiv:2201.10703",
            task="anomaly",
            method="reverse_distillation:ReverseDistillation",
            idea="A decoder restores a frozen encoder's features from a compact embedding of normal images; where the "
            "two disagree, there is a defect.",
        ),
        Paper(
            slug="nl2-autoencoder-ood",
            title="Rethinking Reconstruction Autoencoder-Based Out-of-Distribution Detection",
            authors="Zhou",
            venue="CVPR 2022",
            link="arXiv:2203.02194",
            task="anomaly",
            method="nl2_autoencoder_ood:NL2Autoencoder",
            idea="A classifier's features are reconstructed through a restricted latent space; the normalised distance "
            "of what comes out is the score.",
        ),
        Paper(
            slug="max-softmax",
            title="A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
            authors="Hendrycks and Gimpel",
            venue="ICLR 2017",
            link="arXiv:1610.02136",
            task="ood",
            method="max_softmax:MaxSoftmax",
            idea="The largest class probability of a classifier: what it is unsure of is unknown.",
            baseline=True,
        ),
    ],
)
