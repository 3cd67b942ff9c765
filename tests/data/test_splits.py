from hypothesis import given
from hypothesis import strategies as st

from pinakes.data.splits import hold_out


@given(st.lists(st.sampled_from("abc"), max_size=60), st.floats(0, 1), st.integers(0, 5))
def test_every_group_is_held_out_alike_and_never_whole(groups: list[str], share: float, seed: int) -> None:
    names = [str(i) for i in range(len(groups))]
    held = hold_out(names, groups, share, seed)
    for group in set(groups):
        members = {i for i, name in enumerate(groups) if name == group}
        count = len(members & held)
        assert count < len(members)
        assert count >= min(1, len(members) - 1)
        assert abs(count - share * len(members)) <= 1


def test_a_new_name_moves_at_most_one_other() -> None:
    names = [f"{i}.png" for i in range(50)]
    before = {names[i] for i in hold_out(names, ["x"] * 50, 0.2, seed=0)}
    longer = [*names, "new.png"]
    after = {longer[i] for i in hold_out(longer, ["x"] * 51, 0.2, seed=0)}
    assert len(before ^ after) <= 2
