"""The example notebooks: as pages of the site, and run again.

python -m docs.notebooks    # runs every notebook in docs/examples and keeps what it shows
"""

import json
import re
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent / "examples"
TIMEOUT = 300


def execute(path: Path) -> nbformat.NotebookNode:
    """Runs a notebook from top to bottom in a kernel of its own and returns it with what it showed."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [_tidied(output) for output in cell.outputs if _tells(output)]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def _tells(output: nbformat.NotebookNode) -> bool:
    """Whether an output is for readers: no warnings of the kernel's machine, and not empty."""
    words = re.sub(r"<[^>]*>", "", _text(output)).strip()
    return output.get("name") != "stderr" and bool(words or "image/png" in output.get("data", {}))


def _tidied(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The output without its plain form where it has a rich one; that holds addresses, which change."""
    if "text/html" in output.get("data", {}):
        output.data.pop("text/plain", None)
    return output


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """What the cells of a notebook show, without figures, which differ from machine to machine."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = ["".join(_text(output)) for output in outputs]
    without_pictures = [re.sub(r'src="data:[^"]*"', "", text) for text in texts]
    return [re.sub(r"[\d.,−–]+( ?(ms|s|min))?", "#", text) for text in without_pictures]


def as_markdown(path: Path) -> str:
    """A notebook as a page: its words as they are, its code, and what the code shows."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_as_html(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _as_html(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        shown = " ".join("".join(data["text/html"]).split("\n"))
    elif "image/png" in data:
        shown = f'<img alt="what the cell shows" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    else:
        shown = f"<pre>{escape(_text(output).rstrip())}</pre>".replace("\n", "&#10;")
    return f'<div class="output">{shown}</div>'


def _text(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    return "".join(data.get("text/html", data.get("text/plain", output.get("text", ""))))


def main() -> None:
    """Runs every notebook and keeps what it shows."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(f"{path}: run")


if __name__ == "__main__":
    main()
