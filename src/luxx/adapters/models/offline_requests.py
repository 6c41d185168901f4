"""Find plain requests in what a person wrote, in English or Chinese, and the tool calls that answer them.

Rules, not understanding: what fits none of them asks for nothing. Each rule takes its words out of the
text, so that no word is read twice. What patterns search is bounded, so that no text takes long.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from luxx.domain.message import Json
from luxx.domain.tool import ToolSpec

_WINDOW: Final = 20_000
_CALLS_LIMIT: Final = 8
_JSON_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Wish:
    """A tool, and the arguments to call it with."""

    tool: str
    arguments: Mapping[str, Json]


def wishes(text: str, tools: Sequence[ToolSpec] = ()) -> list[Wish]:
    """Give the calls that answer `text`, at most 8; `tools` tells which form of `data` they take."""
    specs = {tool.name: tool for tool in tools}
    draft = _Draft(text)
    for rule in _RULES:
        rule(draft, specs)
    return draft.found[:_CALLS_LIMIT]


class _Draft:
    """The text that is left to read, and what was found in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[Wish] = []

    @property
    def window(self) -> str:
        return self.text[:_WINDOW]

    def wish(self, tool: str, **arguments: Json) -> None:
        self.found.append(Wish(tool, arguments))

    def cut(self, start: int, end: int) -> None:
        self.text = self.text[:start] + "\n" + self.text[end:]


# --- code -------------------------------------------------------------------------------------------

_PYTHON_BLOCK: Final = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_RUN_PYTHON: Final = re.compile(
    r"(?:\b(?:run|execute)\s+(?:this\s+|the\s+following\s+)?python(?:\s+code)?|(?:运行|执行)\s*python\s*(?:代码)?)\s*[:：]?\s*",
    re.IGNORECASE,
)


def _code(draft: _Draft, _: Mapping[str, ToolSpec]) -> None:
    while (block := _PYTHON_BLOCK.search(draft.text)) and len(draft.found) < _CALLS_LIMIT:
        draft.wish("execute_python", code=block.group(1))
        draft.cut(*block.span())
    asked = _RUN_PYTHON.search(draft.window)
    if asked and not draft.found:
        code = draft.text[asked.end() :].strip().strip("`").strip()
        if code:
            draft.wish("execute_python", code=code)
            draft.cut(asked.start(), len(draft.text))


# --- tables and JSON --------------------------------------------------------------------------------

_SQL: Final = re.compile(r"\bselect\b[^;`]{1,2000}?\bfrom\b[^;`\n]{1,2000}", re.IGNORECASE)
_EXPRESSION: Final = re.compile(
    r"(?:jmespath|expression|表达式)[^`\"“:：\n]{0,20}(?:[:：]\s*)?(?:`([^`\n]+)`|[\"“]([^\"”\n]+)[\"”]|([^\s`\"“，。]+))",
    re.IGNORECASE,
)
_TABLE_WORDS: Final = re.compile(
    r"\b(?:table|rows?|columns?|csv|average|mean|sum|total|max(?:imum)?|min(?:imum)?|highest|lowest|largest|smallest"
    r"|count|how many|sql|query)\b|表|行|列|平均|总和|合计|总共|最大|最高|最小|最低|多少|查询",
    re.IGNORECASE,
)
_AGGREGATES: Final = (
    ("avg", re.compile(r"\b(?:average|mean)\b|平均", re.IGNORECASE)),
    ("max", re.compile(r"\b(?:max(?:imum)?|highest|largest)\b|最大|最高", re.IGNORECASE)),
    ("min", re.compile(r"\b(?:min(?:imum)?|lowest|smallest)\b|最小|最低", re.IGNORECASE)),
    ("sum", re.compile(r"\b(?:sum|total)\b|总和|合计|总共", re.IGNORECASE)),
)
_COUNT: Final = re.compile(r"\b(?:how many|count|number of)\b|多少行|几行|行数", re.IGNORECASE)


def _data(draft: _Draft, specs: Mapping[str, ToolSpec]) -> None:
    found = _json_in(draft.text)
    if found is not None:
        value, start, end = found
        rest = draft.text[:start] + "\n" + draft.text[end:]
        expression = _EXPRESSION.search(rest[:_WINDOW])
        if expression:
            wanted = next(group for group in expression.groups() if group)
            draft.wish("transform_json", data=_fitting(value, specs.get("transform_json")), expression=wanted)
            draft.text = rest[: expression.start()] + "\n" + rest[expression.end() :]
            return
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            columns = [str(name) for name in value[0]]
            _table(draft, rest, _fitting(value, specs.get("query_table")), columns)
        return
    lines = _csv_in(draft.text)
    if lines is not None:
        first, last, rows = lines
        all_lines = draft.text.splitlines()
        rest = "\n".join(all_lines[:first] + all_lines[last:])
        columns = [cell.strip().strip('"') for cell in re.split(r"[,;\t]", rows[0])]
        _table(draft, rest, "\n".join(rows), columns)


def _table(draft: _Draft, rest: str, data: Json, columns: list[str]) -> None:
    sql = _SQL.search(rest[:_WINDOW])
    if sql:
        draft.wish("query_table", data=data, sql=sql.group().strip())
        draft.text = rest[: sql.start()] + "\n" + rest[sql.end() :]
    elif _TABLE_WORDS.search(rest[:_WINDOW]):
        draft.wish("query_table", data=data, sql=_sql_for(rest[:_WINDOW], columns))
        draft.text = ""


def _sql_for(question: str, columns: list[str]) -> str:
    """Put a simple question into SQL: an aggregate of the columns that it names, else the rows.

    The names are quoted, and what runs it has nothing but the table that came with it.
    """
    low = question.lower()
    named = [name for name in columns if name and name.lower() in low]
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in named}
    terms = [
        f'{aggregate}({quoted[name]}) AS "{aggregate} {name.replace(chr(34), "")}"'
        for aggregate, words in _AGGREGATES
        if words.search(question)
        for name in named
    ]
    if terms:
        return f"SELECT {', '.join(terms)} FROM data"  # noqa: S608 - see above
    if _COUNT.search(question):
        return 'SELECT count(*) AS "rows" FROM data'
    return f"SELECT {', '.join(quoted.values()) or '*'} FROM data LIMIT 20"  # noqa: S608 - see above


def _json_in(text: str) -> tuple[Json, int, int] | None:
    """Find the first JSON object or array that holds anything, with its place."""
    decoder = json.JSONDecoder()
    for tried, start in enumerate(match.start() for match in re.finditer(r"[\[{]", text)):
        if tried == _JSON_TRIES:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if value and (isinstance(value, dict) or isinstance(value[0], dict | list) or len(value) > 1):
            return value, start, end
    return None


def _csv_in(text: str) -> tuple[int, int, list[str]] | None:
    """Find the first run of two or more lines with the same separators: first line, line after the last, rows."""
    lines = text.splitlines()
    for first, line in enumerate(lines[:-1]):
        shape = _shape(line)
        if shape is None or any(len(cell) > 60 or not cell.strip() for cell in re.split(r"[,;\t]", line)):
            continue
        last = first + 1
        while last < len(lines) and _shape(lines[last]) == shape:
            last += 1
        if last - first >= 2:
            return first, last, lines[first:last]
    return None


def _shape(line: str) -> tuple[str, int] | None:
    for separator in ("\t", ";", ","):
        count = line.count(separator)
        if count:
            return separator, count
    return None


def _fitting(value: Json, spec: ToolSpec | None) -> Json:
    """Give `value` as the tool takes it: as it is, or as text where its schema allows only a string."""
    form = spec.parameters.get("properties", {}).get("data", {}) if spec is not None else {}
    if isinstance(form, Mapping) and form.get("type") == "string":
        return json.dumps(value, ensure_ascii=False)
    return value


# --- text -------------------------------------------------------------------------------------------

_ANALYZE: Final = re.compile(
    r"\b(?:analy[sz]e|count)\b|\bhow many (?:words|characters|letters|sentences|lines)\b|分析|统计|字数|多少个?[字词]",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(r"```\w*\n(.*?)```|\"([^\"]+)\"|“([^“”]+)”|「([^「」]+)」", re.DOTALL)
_AFTER_COLON: Final = re.compile(r"[:：]\s*(\S.*)", re.DOTALL)
_PATTERN: Final = re.compile(
    r"(?:pattern|match(?:es|ing)?|regex|正则|匹配)[^/`\n]{0,30}(?:/([^/\n]+)/|`([^`\n]+)`)", re.IGNORECASE
)


def _analysis(draft: _Draft, _: Mapping[str, ToolSpec]) -> None:
    asked = _ANALYZE.search(draft.window)
    if not asked:
        return
    pattern = _PATTERN.search(draft.window)
    if pattern:
        draft.cut(*pattern.span())
    given = _QUOTED.search(draft.text) or _AFTER_COLON.search(draft.text, asked.end())
    text = next(filter(None, given.groups()), "").strip() if given else ""
    if not given or not text:
        return
    arguments = {"text": text}
    if pattern:
        arguments["pattern"] = next(group for group in pattern.groups() if group)
    draft.wish("analyze_text", **arguments)
    draft.cut(min(asked.start(), given.start()), given.end())


# --- the web ----------------------------------------------------------------------------------------

_URL: Final = re.compile(r"https?://[^\s<>\"'`（）()，。；]+")
_SEARCH: Final = re.compile(
    r"(?:\bsearch\s+(?:the\s+web\s+|online\s+)?for\s+|\blook\s+up\s+|搜索一?下?|搜一下)[:：\s]*([^\n?!。？！]{1,200})",
    re.IGNORECASE,
)


def _pages(draft: _Draft, _: Mapping[str, ToolSpec]) -> None:
    while (url := _URL.search(draft.text)) and len(draft.found) < _CALLS_LIMIT:
        draft.wish("fetch_page", url=url.group().rstrip(".,;:!?"))
        draft.cut(*url.span())


def _search(draft: _Draft, _: Mapping[str, ToolSpec]) -> None:
    asked = _SEARCH.search(draft.window)
    if asked:
        draft.wish("web_search", query=asked.group(1).strip(" .\"'“”"))
        draft.cut(*asked.span())


# --- weather and time -------------------------------------------------------------------------------

_CLAUSE: Final = re.compile(r"[^;?!，。；？！\n、]+")
_LIST_BREAK: Final = re.compile(r",\s|\.\s|(?<!\s)\s+and\s+|(?<!\s)\s*(?:和|以及|还有)\s*")
_FORECAST: Final = re.compile(r"\b(?:forecast|tomorrow|next|coming|this week)\b|预报|明天|后天|未来", re.IGNORECASE)
_DAYS: Final = re.compile(r"\b(\d{1,2})[ -]days?\b|(\d{1,2})\s*天")
_WEATHER: Final = re.compile(r"\b(?:weather|forecast)\b|天气", re.IGNORECASE)
_PLACE: Final = re.compile(r"\b(?:in|for|at|of)\s+((?!the\b|next\b|now\b)[^\W\d_][\w .'-]{1,60})", re.IGNORECASE)
_PLACE_ENDS: Final = re.compile(
    r"\s*\b(?:today|tomorrow|now|right now|please|this|next|over|for|like|is|the)\b.*", re.IGNORECASE
)
_CHINESE_PLACE: Final = re.compile(r"([\u4e00-\u9fff]{2,12})天气")
_CHINESE_FILLING: Final = re.compile(
    r"请问|请|查一?下?|查询|告诉我|一下|看看|今天|明天|后天|现在|未来|几天|的|怎么样|如何"
)

_TIME: Final = re.compile(
    r"\bwhat(?:'s| is)? (?:the )?(?:current )?time\b|\btime is it\b|\bcurrent time\b|\btime (?:now|in|at)\b"
    r"|几点|(?:现在|当前|什么|的|当地)时间",
    re.IGNORECASE,
)
_ZONE: Final = re.compile(
    r"\b((?:Africa|America|Antarctica|Asia|Atlantic|Australia|Europe|Indian|Pacific|Etc)/[A-Za-z_/+\-0-9]+|UTC)\b"
)
_CITIES: Final[Mapping[str, str]] = {
    "beijing": "Asia/Shanghai", "北京": "Asia/Shanghai", "shanghai": "Asia/Shanghai", "上海": "Asia/Shanghai",
    "shenzhen": "Asia/Shanghai", "深圳": "Asia/Shanghai", "guangzhou": "Asia/Shanghai", "广州": "Asia/Shanghai",
    "hong kong": "Asia/Hong_Kong", "香港": "Asia/Hong_Kong", "taipei": "Asia/Taipei", "台北": "Asia/Taipei",
    "tokyo": "Asia/Tokyo", "东京": "Asia/Tokyo", "seoul": "Asia/Seoul", "首尔": "Asia/Seoul",
    "singapore": "Asia/Singapore", "新加坡": "Asia/Singapore", "bangkok": "Asia/Bangkok", "曼谷": "Asia/Bangkok",
    "jakarta": "Asia/Jakarta", "雅加达": "Asia/Jakarta", "delhi": "Asia/Kolkata", "德里": "Asia/Kolkata",
    "mumbai": "Asia/Kolkata", "孟买": "Asia/Kolkata", "dubai": "Asia/Dubai", "迪拜": "Asia/Dubai",
    "istanbul": "Europe/Istanbul", "伊斯坦布尔": "Europe/Istanbul",
    "moscow": "Europe/Moscow", "莫斯科": "Europe/Moscow",
    "london": "Europe/London", "伦敦": "Europe/London", "paris": "Europe/Paris", "巴黎": "Europe/Paris",
    "berlin": "Europe/Berlin", "柏林": "Europe/Berlin", "madrid": "Europe/Madrid", "马德里": "Europe/Madrid",
    "rome": "Europe/Rome", "罗马": "Europe/Rome", "vienna": "Europe/Vienna", "维也纳": "Europe/Vienna",
    "zurich": "Europe/Zurich", "苏黎世": "Europe/Zurich", "amsterdam": "Europe/Amsterdam",
    "阿姆斯特丹": "Europe/Amsterdam", "cairo": "Africa/Cairo", "开罗": "Africa/Cairo",
    "lagos": "Africa/Lagos", "nairobi": "Africa/Nairobi", "内罗毕": "Africa/Nairobi",
    "johannesburg": "Africa/Johannesburg", "约翰内斯堡": "Africa/Johannesburg",
    "new york": "America/New_York", "纽约": "America/New_York",
    "chicago": "America/Chicago", "芝加哥": "America/Chicago",
    "denver": "America/Denver", "los angeles": "America/Los_Angeles", "洛杉矶": "America/Los_Angeles",
    "san francisco": "America/Los_Angeles", "旧金山": "America/Los_Angeles", "seattle": "America/Los_Angeles",
    "toronto": "America/Toronto", "多伦多": "America/Toronto", "mexico city": "America/Mexico_City",
    "sao paulo": "America/Sao_Paulo", "圣保罗": "America/Sao_Paulo", "buenos aires": "America/Argentina/Buenos_Aires",
    "sydney": "Australia/Sydney", "悉尼": "Australia/Sydney", "melbourne": "Australia/Melbourne",
    "墨尔本": "Australia/Melbourne", "auckland": "Pacific/Auckland", "奥克兰": "Pacific/Auckland",
    "honolulu": "Pacific/Honolulu", "檀香山": "Pacific/Honolulu",
}  # fmt: skip


def _weather(draft: _Draft, _: Mapping[str, ToolSpec]) -> None:
    for clause in _CLAUSE.finditer(draft.window):
        if not _WEATHER.search(clause.group()):
            continue
        days = _DAYS.search(clause.group())
        cut = [clause.start(), clause.start()]
        for part in _parts(clause):
            place = _place(part.text)
            if place and (_WEATHER.search(part.text) or cut[1] > cut[0]) and not _TIME.search(part.text):
                cut = [cut[0] if cut[1] > cut[0] else part.start, part.end]
                if _FORECAST.search(clause.group()):
                    count = {"days": min(int(days.group(1) or days.group(2)), 16)} if days else {}
                    draft.wish("weather_forecast", location=place, **count)
                else:
                    draft.wish("current_weather", location=place)
        if cut[1] > cut[0]:
            draft.text = draft.text[: cut[0]] + " " * (cut[1] - cut[0]) + draft.text[cut[1] :]


@dataclass(frozen=True, slots=True)
class _Part:
    text: str
    start: int
    end: int


def _parts(clause: re.Match[str]) -> list[_Part]:
    """Split a clause where it lists things."""
    parts = []
    start = 0
    for stop in [*(found.span() for found in _LIST_BREAK.finditer(clause.group())), (len(clause.group()),) * 2]:
        parts.append(_Part(clause.group()[start : stop[0]], clause.start() + start, clause.start() + stop[0]))
        start = stop[1]
    return parts


def _place(text: str) -> str:
    chinese = _CHINESE_PLACE.search(text)
    if chinese:
        return _CHINESE_FILLING.sub("", chinese.group(1))
    english = _PLACE.search(text)
    if english:
        return _PLACE_ENDS.sub("", english.group(1)).strip(" .'-")
    return next((city for city in _CITIES if city in text.lower()), "").title()


def _time(draft: _Draft, _: Mapping[str, ToolSpec]) -> None:
    for clause in _CLAUSE.finditer(draft.window):
        if not _TIME.search(clause.group()):
            continue
        zones = [zone.group(1) for zone in _ZONE.finditer(clause.group())]
        low = clause.group().lower()
        zones += [zone for _, zone in sorted((low.index(city), zone) for city, zone in _CITIES.items() if city in low)]
        for zone in dict.fromkeys(zones or ["UTC"]):
            draft.wish("current_time", timezone=zone)


# --- arithmetic -------------------------------------------------------------------------------------

_FUNCTIONS: Final = "sqrt|sin|cos|tan|log10|log2|log|exp|abs|floor|ceil|round|factorial|gcd|lcm|pow"
_CANDIDATE: Final = re.compile(rf"(?:(?:{_FUNCTIONS})(?=\s*\()|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[-+*/%().,\s]|\bpi\b)+")
_OPERATION: Final = re.compile(
    rf"[\d)]\s*(?:\*\*|//|[-+*/%])\s*[-(\d]|[\d)]\s*[-+*/]\s*(?:{_FUNCTIONS})|(?:{_FUNCTIONS})\s*\("
)
_NO_SUM: Final = re.compile(r"\d+(?:-\d+){2,}|\d{1,4}/\d{1,2}/\d{1,4}|\d+(?:\.\d+){2,}")
_CALCULATE: Final = re.compile(
    r"\b(?:calculate|compute|evaluate|work out|what is|what's|whats|how much is|solve)\b|=|算|多少|等于|求",
    re.IGNORECASE,
)
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PERCENT_OF: Final = re.compile(r"(?<!\d)(\d+(?:\.\d+)?)\s*(?:%|percent)\s*of\s+(?=\d)", re.IGNORECASE)
_SPELLED: Final = (
    (re.compile(r"(?<=[\d)])\s*(?:\bplus\b|加上?)\s*(?=[\d(])", re.IGNORECASE), " + "),
    (re.compile(r"(?<=[\d)])\s*(?:\bminus\b|减去?)\s*(?=[\d(])", re.IGNORECASE), " - "),
    (re.compile(r"(?<=[\d)])\s*(?:\btimes\b|\bmultiplied by\b|乘以?|×|\bx\b)\s*(?=[\d(])", re.IGNORECASE), " * "),
    (re.compile(r"(?<=[\d)])\s*(?:\bdivided by\b|除以|÷)\s*(?=[\d(])", re.IGNORECASE), " / "),
    (re.compile(r"(?<=[\d)])\s*(?:\bto the power of\b|\^)\s*(?=[\d(])", re.IGNORECASE), " ** "),
    (re.compile(r"(?<=[\d)])\s*的\s*(\d{1,9})\s*次方"), r" ** \1"),
)
_MARKS: Final = str.maketrans("（）＋－−＊／×÷", "()+--*/*/")


def _arithmetic(draft: _Draft, _: Mapping[str, ToolSpec]) -> None:
    text = _THOUSANDS.sub("", draft.window) if "(" not in draft.window else draft.window
    text = _PERCENT_OF.sub(r"\1 / 100 * ", text.translate(_MARKS))
    for words, sign in _SPELLED:
        text = words.sub(sign, text)
    asked = _CALCULATE.search(text) is not None
    length = len("".join(text.split()))
    for candidate in _CANDIDATE.finditer(text):
        for expression in _expressions(candidate.group()):
            if asked or len("".join(expression.split())) * 2 >= length:
                draft.wish("calculate", expression=expression)


def _expressions(candidate: str) -> list[str]:
    found = []
    for line in _outside_brackets(candidate):
        for piece in re.split(r"(?<=[\d)])\s+(?=\d)", line):
            expression = " ".join(piece.split()).strip(".").strip()
            if _OPERATION.search(expression) and not _NO_SUM.fullmatch(expression) and _is_expression(expression):
                found.append(expression)
    return found


def _outside_brackets(text: str) -> list[str]:
    """Split at commas and line ends, but not between brackets."""
    pieces = [""]
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth <= 0 and character in ",\n":
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _is_expression(text: str) -> bool:
    if len(text) > 500:
        return False
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


_RULES: Final[tuple[Callable[[_Draft, Mapping[str, ToolSpec]], None], ...]] = (
    _code,
    _data,
    _analysis,
    _pages,
    _search,
    _weather,
    _time,
    _arithmetic,
)
