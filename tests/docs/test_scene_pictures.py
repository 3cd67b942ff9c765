from docs.scene_pictures import PICTURES, tiles
from pinakes.scenes.labels import LABELS
from pinakes.scenes.source import SceneSamples

TOTAL_BYTES = 400_000


def test_every_label_has_a_picture_in_the_readme_and_all_are_small() -> None:
    found = {path.stem: path.stat().st_size for path in PICTURES.glob("*.webp")}
    assert found.keys() == LABELS.keys()
    assert sum(found.values()) < TOTAL_BYTES
    readme = (PICTURES.parents[2] / "README.md").read_text(encoding="utf-8")
    assert [what for what in LABELS if f"(docs/pictures/scenes/{what}.webp)" not in readme] == []


def test_four_tiles_are_shown_whether_a_label_has_one_map_or_many() -> None:
    for what in ("classification", "depth", "segmentation", "stereo", "pairs"):
        part = SceneSamples(what, "test", 4, (16, 16))
        assert len(tiles([part.panels(part[index]) for index in range(4)])) == 4
