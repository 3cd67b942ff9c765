from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinakes.cli import options
from pinakes.cli.options import read_settings, read_settings_of_methods
from pinakes.errors import UserError


def method(
    count: int = 1,
    ratio: float = 0.5,
    flag: bool = False,
    name: str = "a",
    layers: Sequence[int] = (2, 3),
    pair: tuple[int, float] = (1, 2.0),
    depth: int | None = None,
    mode: Literal["mean", "max"] = "mean",
    widths: tuple[int, ...] = (),
    either: int | str = 1,
    bare: Any = 3,
) -> None:
    """Takes an option of every type."""


def read(word: str) -> Any:
    return next(iter(read_settings([word], method, "it").values()))


@given(st.integers())
def test_whole_numbers_come_back(value: int) -> None:
    assert read(f"count={value}") == value
    assert read(f"depth={value}") == value
    assert read(f"bare={value}") == value


@given(st.floats(allow_nan=False))
def test_numbers_come_back(value: float) -> None:
    assert read(f"ratio={value!r}") == value


@given(st.text())
def test_text_comes_back_whatever_it_holds(value: str) -> None:
    assert read(f"name={value}") == value


@given(st.lists(st.integers()))
def test_several_numbers_come_back_in_every_spelling(values: list[int]) -> None:
    plain = ",".join(map(str, values))
    for words in (plain, f"({plain})", f"[{plain}]", str(tuple(values)), str(values)):
        assert read(f"layers={words}") == tuple(values)
        assert read(f"widths={words}") == tuple(values)


@given(st.booleans())
def test_flags_come_back(value: bool) -> None:
    assert read(f"flag={value}") is value


@given(st.text())
def test_any_word_is_read_or_refused_with_its_name(word: str) -> None:
    refusals = []
    for name in ("count", "ratio", "flag", "layers", "pair", "depth", "mode"):
        try:
            read(f"{name}={word}")
        except UserError as error:
            refusals.append((name, str(error)))
    assert all(message.startswith(f"--set {name}: ") for name, message in refusals)


def test_none_where_the_option_allows_it() -> None:
    assert read("depth=none") is None
    with pytest.raises(UserError, match="count: expected a whole number, got 'none'"):
        read("count=none")


def test_whole_number_before_text_where_both_are_allowed() -> None:
    assert read("either=3") == 3
    assert read("either=three") == "three"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("count=many", "count: expected a whole number, got 'many'"),
        ("count=1.5", "count: expected a whole number, got '1.5'"),
        ("ratio=half", "ratio: expected a number, got 'half'"),
        ("ratio=nan", "ratio: expected a number, got 'nan'"),
        ("flag=maybe", "flag: expected true or false, got 'maybe'"),
        ("layers=1,x", "layers: expected a whole number, got 'x'"),
        ("pair=1", "pair: expected 2 values with commas between, got '1'"),
        ("mode=mex", "mode: 'mex' is not a choice; did you mean 'max'"),
        ("cont=1", "it has no option 'cont'; did you mean 'count'"),
        ("count", "count: expected NAME=VALUE"),
        ("=1", "expected NAME=VALUE"),
    ],
)
def test_refusals_name_the_option_and_what_was_expected(word: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        read(word)
    assert message in str(refusal.value)


def test_option_given_twice() -> None:
    with pytest.raises(UserError, match="count: is given twice"):
        read_settings(["count=1", "count=2"], method, "it")


def test_options_of_methods_are_sorted_by_method() -> None:
    words = ["patchcore.neighbours=3", "patchcore.layers=2"]
    assert read_settings_of_methods(words, ["patchcore"]) == {"patchcore": {"neighbours": 3, "layers": (2,)}}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("neighbours=3", "expected SLUG.NAME=VALUE, such as --set patchcore.neighbours=..."),
        ("patchcor.neighbours=3", "did you mean 'patchcore'"),
        ("patchcore.neighbors=3", "did you mean 'neighbours'"),
    ],
)
def test_option_of_a_method_that_is_not_understood(word: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        read_settings_of_methods([word], ["patchcore"])
    assert message in str(refusal.value)


def test_an_option_for_all_goes_to_every_method_that_has_it() -> None:
    slugs = ["kd", "cross-entropy"]
    assert read_settings_of_methods(["all.student=x", "all.teacher=y"], slugs) == {
        "all": {"student": "x", "teacher": "y"}
    }
    assert read_settings_of_methods(["all.student=x", "kd.student=y"], slugs) == {
        "all": {"student": "x"},
        "kd": {"student": "y"},
    }


def test_an_option_for_all_is_read_as_each_method_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    slugs = ["patchcore", "feature-norm-ood"]
    kinds = {"patchcore": 3, "feature-norm-ood": "3"}
    monkeypatch.setattr(
        options, "read_settings", lambda words, constructor, owner: {words[0].partition("=")[0]: kinds[owner]}
    )
    found = read_settings_of_methods(["all.backbone=3"], slugs)
    assert found == {slug: {"backbone": value} for slug, value in kinds.items()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["all.neighbors=3"],
            "no method that takes part has an option 'neighbors'; did you mean 'neighbours'",
        ),
        (["all.neighbours=many"], "--set neighbours: expected a whole number, got 'many'"),
        (["all.sigma=1", "all.sigma=2"], "--set all.sigma: is given twice"),
    ],
)
def test_an_option_for_all_that_is_not_understood(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        read_settings_of_methods(words, ["patchcore"])
    assert message in str(refusal.value)
