from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinakes.data.sources import Request
from pinakes.data.spec import Spec, check_size, read_options, to_int, to_size
from pinakes.errors import UserError

SCHEMES = ["mvtec", "folder", "digits"]
names = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,8}", fullmatch=True)


def load(
    request: Request,
    *,
    n: int = 3,
    share: float = 0.5,
    masks: bool = False,
    name: str = "",
    side: Literal["left", "right"] = "left",
) -> None:
    """A loader with an option of every type."""


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(SCHEMES),
    st.text(min_size=1),
    st.dictionaries(names, st.text(), max_size=4),
)
def test_a_spec_reads_back_as_it_was_written(scheme: str, path: str, options: dict[str, str]) -> None:
    spec = Spec(scheme, path, options)
    assert Spec.parse(str(spec), SCHEMES) == spec


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, st.text(), max_size=4))
def test_a_built_in_set_reads_back_as_it_was_written(options: dict[str, str]) -> None:
    spec = Spec("digits", "", options)
    assert Spec.parse(str(spec), SCHEMES) == spec


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_parsed_or_refused_with_a_user_error(text: str) -> None:
    try:
        spec = Spec.parse(text, SCHEMES)
    except UserError:
        return
    assert spec.scheme in {"", *SCHEMES}


@pytest.mark.parametrize("path", ["C:\\parts", "/data/parts", "my parts", "parts?", "a?b", "odd:parts"])
def test_a_path_is_no_scheme(path: str) -> None:
    spec = Spec.parse(path, SCHEMES)
    assert (spec.scheme, spec.path) == ("", path.removesuffix("?"))


def test_an_empty_spec_is_refused() -> None:
    with pytest.raises(UserError, match="empty; give a folder"):
        Spec.parse("  ", SCHEMES)


def test_an_option_given_twice_is_named() -> None:
    with pytest.raises(UserError, match="'n' is given twice"):
        Spec.parse("digits?n=1&n=2", SCHEMES)


def test_options_get_the_types_that_the_loader_states() -> None:
    words = {"n": "7", "share": "1e-2", "masks": "yes", "name": "x y", "side": "right", "size": "8x9"}
    values = read_options(load, Spec("folder", "p", words), {"size": to_size})
    assert values == {"n": 7, "share": 0.01, "masks": True, "name": "x y", "side": "right", "size": (8, 9)}


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("n", "many", "'n' must be a whole number, got 'many'"),
        ("n", "1.5", "'n' must be a whole number"),
        ("share", "half", "'share' must be a number, got 'half'"),
        ("share", "nan", "'share' must be a number"),
        ("masks", "perhaps", "'masks' must be true or false, got 'perhaps'"),
        ("side", "lefd", "'side' cannot be 'lefd'; did you mean 'left'"),
        ("side", "up", "choose from left, right"),
        ("seeed", "1", "'folder' data has no option 'seeed'; did you mean 'seed'"),
        ("size", "big", "'size' must be like 64, or 64x96 for height x width, got 'big'"),
        ("size", "0", "size must be from 1 to 16384"),
    ],
)
def test_a_bad_option_is_named_with_what_it_may_be(name: str, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_options(load, Spec("folder", "p", {name: word}), {"size": to_size, "seed": to_int})


def test_a_side_is_a_square() -> None:
    assert check_size(5) == (5, 5)
    assert to_size("size", "5") == (5, 5)
