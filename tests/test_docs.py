"""The recipes that the documentation shows can be read."""

import re
from pathlib import Path

from semivss.recipe import load_recipe

DOCS = Path(__file__).parents[1] / "docs"


def test_recipes_in_the_docs_resolve(tmp_path):
    shown = [
        (page.stem, block)
        for page in sorted(DOCS.glob("*.md"))
        for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        if "[[data." in block
    ]
    assert "recipes" in {page for page, _ in shown}
    for page, block in shown:
        path = tmp_path / f"{page}.toml"
        path.write_text(block if "[[data.train]]" in block else f'{block}\n[[data.train]]\nkind = "toy"\n', encoding="utf-8")
        load_recipe(path)
