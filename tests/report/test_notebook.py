import pinakes
from pinakes.report import notebook


def test_a_paper_shows_title_and_link_without_importing_its_method() -> None:
    html = pinakes.find("patchcore")._repr_html_()
    assert "Towards Total Recall" in html
    assert "https://arxiv.org/abs/2106.08265" in html


def test_a_method_shows_its_options_and_marks_those_that_differ() -> None:
    method = pinakes.create("patchcore", coreset_ratio=0.5)
    html = method._repr_html_()
    assert "not fitted yet" in html
    assert "<b>0.5</b>" in html
    assert "<code>&#x27;pinakes/tiny_conv&#x27;</code>" in html
    method.prepare(pinakes.DataInfo(channels=3, size=(32, 48)))
    assert "built for 3 × 32 × 48 pixels" in method._repr_html_()


def test_data_shows_its_parts_with_kinds_and_pictures() -> None:
    data = pinakes.load_data("textures?size=32&n=8", task="anomaly")
    html = data._repr_html_()
    assert data.layout in html
    assert html.count("data:image/webp;base64,") == sum(
        min(notebook.THUMBNAILS, len(part)) for _, part in data.splits()
    )
    assert "good" in html
