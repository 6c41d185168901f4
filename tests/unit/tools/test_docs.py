"""What the docs say of tools is what the declarations say."""

import importlib.util
from pathlib import Path
from typing import Any

from luxx.adapters.system import utc_now
from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.reference import reference
from luxx.adapters.tools.resources import ToolResources

DOCS = Path(__file__).parents[3] / "docs"


async def test_the_reference_in_the_docs_is_current() -> None:
    async with ToolResources.open(utc_now) as resources:
        tools = load_tools(resources)
        page = (DOCS / "tools.md").read_text(encoding="utf-8")
        assert reference(tools) in page, "run `make docs`"
        assert all(f"### `{tool.spec.name}`" in page for tool in tools)


async def test_the_tool_in_the_guide_works(tmp_path: Path) -> None:
    guide = (DOCS / "adding-a-tool.md").read_text(encoding="utf-8")
    source = guide.split("```python\n", 1)[1].split("```", 1)[0]
    path = tmp_path / "roll_dice.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("roll_dice", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    async with ToolResources.open(utc_now) as resources:
        bound = module.roll_dice.bind(resources)
        result = await bound.run({"count": 3})
        assert len(result["rolls"]) == 3
        assert sum(result["rolls"]) == result["sum"]
