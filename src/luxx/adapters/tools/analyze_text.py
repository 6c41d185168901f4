"""`analyze_text`: count what a text is made of."""

from typing import Annotated

from msgspec import Meta, Struct

from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.jobs import text
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.message import Json


class AnalyzeTextArguments(Struct, frozen=True, forbid_unknown_fields=True):
    text: Annotated[str, Meta(max_length=1_000_000, description="The text to look at, in any language")]
    pattern: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1_000)] | None,
        Meta(
            description=r"A regular expression (RE2 syntax) whose matches are found, for example \d+",
            examples=[r"\d+"],
        ),
    ] = None


@tool(category="data", seconds=10)
async def analyze_text(arguments: AnalyzeTextArguments, resources: ToolResources) -> Json:
    """Count the characters, words, lines and sentences of a text, and find its most frequent words.

    Of Chinese and Japanese, each character counts as a word, and pairs of characters that come back are among the
    frequent words. With `pattern` also the matches of a regular expression (RE2 syntax): their count, and of the
    first 100 the text, `start` and `end` (in characters from 0) and groups.
    """
    return await resources.workers.run(8, text.analyze_text, arguments.text, arguments.pattern)
