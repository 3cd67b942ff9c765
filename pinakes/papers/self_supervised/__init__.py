"""The shelf's index: plain data, no heavy import."""

from pinakes.catalogue import Paper, Shelf

SHELF = Shelf(
    name="self_supervised",
    title="Self-supervised learning",
    papers=[
        Paper(
            slug="mae",
            title="Masked Autoencoders Are Scalable Vision Learners",
            authors="He et al.",
            venue="CVPR 2022",
            link="arXiv:2111.06377",
            task="representation",
            method="mae:MAE",
            idea="Hides three quarters of an image's patches, looks at the rest, and paints what is hidden.",
        ),
        Paper(
            slug="spark-sparse-masked",
            title="Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling",
            authors="Tian et al.",
            venue="ICLR 2023",
            link="arXiv:2301.03580",
            task="representation",
            method="spark:SparK",
            idea="Masks a convolutional network at every level, as if visible pixels were a sparse cloud of points.",
        ),
        Paper(
            slug="cae-context-autoencoder",
            title="Context Autoencoder for Self-Supervised Representation Learning",
            authors="Chen et al.",
            venue="IJCV 2023",
            link="arXiv:2202.03026",
            task="representation",
            method="cae:CAE",
            idea="Foretells what the encoder would say of hidden patches, and paints them from that alone.",
        ),
        Paper(
            slug="random-weights",
            title="On Random Weights and Unsupervised Feature Learning",
            authors="Saxe et al.",
            venue="ICML 2011",
            link="https://icml.cc/2011/papers/551_icmlpaper.pdf",
            task="representation",
            method="random_weights:RandomWeights",
            idea="A network that has learnt nothing: what learning adds is held against its features.",
            baseline=True,
        ),
    ],
)
