"""A hook of mkdocs: the tour's notebook as a page of the site, beside the notebook itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

NOTEBOOK = Path(__file__).with_name("tour.ipynb")


def on_files(files: Any, config: Any) -> Any:
    """Adds tour.md, made of the notebook's cells."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    parts = ["".join(cell["source"]) for cell in cells]
    texts = [
        f"```python\n{part}\n```" if cell["cell_type"] == "code" else part
        for part, cell in zip(parts, cells)
    ]
    note = "[This page as a notebook](tour.ipynb); a test runs its cells in order."
    content = "\n\n".join([texts[0], note, *texts[1:]]) + "\n"
    files.append(File.generated(config, "tour.md", content=content))
    return files
