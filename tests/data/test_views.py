"""Views choose, relabel and state what their sets state."""

import torch

from pinakes.data import load_data
from pinakes.data.views import View, chosen, kinds_of, labels_of
from pinakes.tasks import get


def numbers(count: int) -> list[dict[str, object]]:
    return [{"n": torch.tensor(i), "label": torch.tensor(i % 3), "kind": f"k{i % 3}"} for i in range(count)]


def test_samples_come_in_the_order_of_the_picks_with_the_fields_set_anew() -> None:
    first, second = numbers(4), numbers(6)
    view = View([(second, 5), (first, 0)], {"kind": ["x", "y"], "new": [True, False]})
    assert [(int(s["n"]), s["kind"], bool(s["new"])) for s in (view[0], view[1])] == [
        (5, "x", True),
        (0, "y", False),
    ]
    assert len(view) == 2


def test_only_the_fields_to_keep_are_kept() -> None:
    view = View([(numbers(3), 2)], {"kind": ["z"]}, keep=("n",))
    assert view[0] == {"n": torch.tensor(2), "kind": "z"}


def test_labels_and_kinds_are_those_of_the_samples_whether_stated_or_looked_at() -> None:
    stated = load_data("textures?size=32&n=8").test
    assert stated is not None
    looked_at = [stated[i] for i in range(len(stated))]
    for part in (stated, looked_at):
        view = chosen(part, [3, 0, 5])
        assert list(view.labels) == [int(part[i]["label"]) for i in (3, 0, 5)]
        assert list(view.kinds) == [part[i]["kind"] for i in (3, 0, 5)]
        assert list(labels_of(part)) == [int(s["label"]) for s in looked_at]
        assert list(kinds_of(part)) == [s["kind"] for s in looked_at]


def test_the_fingerprint_changes_with_the_choice_the_fields_and_the_data() -> None:
    part, other = (load_data(f"textures?size=32&n=8&seed={seed}").train for seed in (0, 1))
    views = [
        chosen(part, [0, 1]),
        chosen(part, [1, 0]),
        chosen(other, [0, 1]),
        View([(part, 0), (part, 1)], {"label": [0, 1]}),
    ]
    assert len({view.fingerprint() for view in views}) == 4
    assert chosen(part, [0, 1]).fingerprint() == views[0].fingerprint()


def test_a_view_collates_like_any_data_set() -> None:
    part = load_data("textures?size=32&n=8").train
    batch = get("anomaly").collate([chosen(part, [4, 2])[i] for i in range(2)])
    assert torch.equal(batch["image"][0], part[4]["image"])
