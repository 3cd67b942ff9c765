"""The table of jobs: for each label what is learned, from which data, by what, in how many steps, and against what."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.scenes_learning import boxes, classes, maps, novelties, views, words
from benchmarks.scenes_learning.measures import Measure, Outcome, Samples


@dataclass(frozen=True)
class Job:
    """How a label is learned.

    Args:
        learns: What is learned.
        options: Options of the data, as they stand in the spec.
        network: The network.
        steps: Steps of training.
        measure: What the score is.
        chance: What chance is.
        learn: From training samples, held-out samples and steps to the outcome.
    """

    learns: str
    options: str
    network: str
    steps: int
    measure: Measure
    chance: str
    learn: Callable[[Samples, Samples, int], Outcome]


ACCURACY, AUROC, F1 = Measure("accuracy", 1), Measure("AUROC", 1), Measure("F1 at IoU 0.5", 1)
PIXELS_RIGHT, WRONG = Measure("share of pixels right", 1), Measure("share of attributes wrong", 0)
ERROR, LOGARITHM = Measure("mean absolute error", 0), Measure("mean error of log depth", 0)
DEGREES, PIXELS = Measure("mean error, degrees", 0), Measure("mean error, pixels", 0)
SQUARED, RANK = Measure("mean squared error", 0), Measure("mean rank, as a share of all", 0)

COMMON, MEAN, STILL = "the most common class", "the mean map of training", "no movement"
FROZEN, SAME = "tiny_conv, frozen", "the same score for all"

JOBS = {
    "classification": Job(
        "class of the main thing", "size=32&n=1000", "pooled", 250, ACCURACY, COMMON, classes.classification
    ),
    "attributes": Job(
        "attributes of class, colour and texture", "size=32&n=1000", "pooled", 250, WRONG,
        "the most common value of each", classes.attributes,
    ),
    "table": Job(
        "size, shape, place and brightness of the main thing", "size=32&n=1000&noise=0", "pooled", 300,
        Measure("mean absolute error, in deviations", 0), "the mean of training", classes.measurements,
    ),
    "longtail": Job(
        "classes, balanced, from long-tailed ones", "size=32&n=1500", "pooled", 300, ACCURACY,
        "the most common class of training", classes.longtail,
    ),
    "groups": Job(
        "class, whatever the group that goes with it", "size=32&n=1000", "pooled", 150, ACCURACY,
        "the class that goes with the group", classes.groups,
    ),
    "domains": Job(
        "classes in a style never seen", "size=32&n=1500", "pooled", 300, ACCURACY, COMMON, classes.classification
    ),
    "ood": Job(
        "which things have no known shape or texture", "size=64&n=400", FROZEN, 0, AUROC, SAME, novelties.pictures
    ),
    "anomaly": Job(
        "which parts have a defect", "size=64&n=160", FROZEN, 0, AUROC, SAME, novelties.places
    ),
    "segmentation": Job(
        "class of every pixel", "size=32&n=800&things=2", "dense", 250, PIXELS_RIGHT,
        "the most common class at each pixel", maps.segmentation,
    ),
    "people": Job(
        "part of the body at every pixel", "size=64x32&n=600", "dense", 250, PIXELS_RIGHT,
        "the most common part at each pixel", maps.segmentation,
    ),
    "detection": Job(
        "boxes and classes of things", "size=48&n=1000&things=2", "dense, for cells", 600, F1,
        "the boxes of a training picture", boxes.detection,
    ),
    "relations": Job(
        "relation of two things, given their boxes", "size=32&n=400", "pooled", 200, ACCURACY,
        "the most common relation", classes.relations,
    ),
    "depth": Job("depth", "size=32&n=600", "dense", 200, LOGARITHM, MEAN, maps.depth),
    "normals": Job("normals", "size=32&n=600", "dense", 200, DEGREES, MEAN, maps.normals),
    "modalities": Job(
        "depth, from data that have classes as well", "size=32&n=600", "dense", 400, LOGARITHM, MEAN, maps.depth
    ),
    "intrinsics": Job("albedo and shading", "size=32&n=600", "dense", 200, ERROR, MEAN, maps.intrinsics),
    "stereo": Job("disparity", "size=48&n=800", "matching", 400, PIXELS, MEAN, views.stereo),
    "pairs": Job(
        "rotation from one camera to the other", "size=32&n=1000", "pooled", 300, DEGREES,
        "the mean rotation vector of training", views.pairs,
    ),
    "flow": Job("optical flow", "size=32&n=600", "matching", 150, PIXELS, STILL, views.flow),
    "video": Job(
        "movement of tracked points, first to last frame", "size=32&n=300&frames=4&points=256", "matching", 150,
        PIXELS, STILL, views.video,
    ),
    "multiview": Job(
        "the scene from where no picture was taken", "size=32&n=100", "radiance field", 1000, SQUARED,
        "the mean picture of training", views.multiview,
    ),
    "captions": Job(
        "which sentences belong to a picture", "size=32&n=1500", "pooled, and a perceptron of words", 300, RANK,
        "a random order", words.captions,
    ),
    "questions": Job(
        "answers to questions", "size=32&n=6000&things=1", "cells that the words of the question attend to", 2400,
        ACCURACY, "the most common answer to each kind of question", words.questions,
    ),
}  # fmt: skip
