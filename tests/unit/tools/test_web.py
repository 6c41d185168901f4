"""What may be reached, and what a site allows."""

import re
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luxx.adapters.tools.web.addresses import AddressRules, is_public
from luxx.adapters.tools.web.names import zone_of
from luxx.adapters.tools.web.robots import LARGEST_BYTES, Robots

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::808:808"]
PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "168.63.129.16", "169.254.169.254", "172.31.255.255",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.19.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a00:1",
    "64:ff9b:1::808:808", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::", "fc00::1", "fd00::1",
    "fe80::1", "fec0::1", "ff02::1", "2a00::200:5efe:7f00:1", "5f00::1", "3fff::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_may_be_reached(text: str) -> None:
    assert AddressRules().allows("host", ip_address(text), 443)


@pytest.mark.parametrize("text", PRIVATE)
def test_all_others_may_not(text: str) -> None:
    assert not AddressRules().allows("host", ip_address(text), 443)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_as_public_as_all_its_ipv6_forms(address: object) -> None:
    number = int(ip_address(str(address)))
    plain = is_public(ip_address(number))
    assert is_public(ip_address((0xFFFF << 32) | number)) is plain
    assert is_public(ip_address((0x64FF9B << 96) | number)) is plain
    if not plain:
        assert not is_public(ip_address((0x2002 << 112) | (number << 80)))


@pytest.mark.parametrize(
    ("entry", "host", "address", "port", "allowed"),
    [
        ("intranet.example", "Intranet.Example.", "10.0.0.1", 80, True),
        ("intranet.example", "sub.intranet.example", "10.0.0.1", 80, False),
        ("intranet.example:8080", "intranet.example", "10.0.0.1", 8080, True),
        ("intranet.example:8080", "intranet.example", "10.0.0.1", 80, False),
        ("10.0.0.0/8", "anything", "10.9.9.9", 80, True),
        ("10.0.0.0/8", "anything", "::ffff:10.9.9.9", 80, True),
        ("10.0.0.0/8", "anything", "192.168.0.1", 80, False),
        ("127.0.0.1:9000", "x", "127.0.0.1", 9000, True),
        ("127.0.0.1:9000", "x", "127.0.0.1", 9001, False),
        ("[::1]:9000", "x", "::1", 9000, True),
        ("fd00::/8", "x", "fd00::5", 80, True),
        ("fd00::/8", "x", "fe80::5", 80, False),
    ],
)
def test_an_operator_s_entry_opens_what_it_names(entry: str, host: str, address: str, port: int, allowed: bool) -> None:
    assert AddressRules.allowing([entry]).allows(host, ip_address(address), port) is allowed


@pytest.mark.parametrize("entry", ["", "a b", "http://x/", "10.0.0.0/99", "-x", "x:99999", "*"])
def test_an_entry_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host, address or CIDR"):
        AddressRules.allowing([entry])


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("example.com", "example.com"),
        ("a.b.Example.COM.", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.com.cn", "example.com.cn"),
        ("co.uk", "co.uk"),
        ("a.com.example", "com.example"),
        ("localhost", "localhost"),
        ("uk", "uk"),
    ],
)
def test_a_zone_is_what_has_one_owner(name: str, zone: str) -> None:
    assert zone_of(name) == zone


ROBOTS = """# a comment
User-agent: Googlebot
Disallow: /

User-agent: *
Crawl-delay: 2
Disallow: /private   # trailing
Allow: /private/open
Disallow: /*.pdf$
Disallow: /a*b*c
Disallow: /%E5%8C%97

User-agent: other
User-agent: LUXX/2.0
Disallow: /ours
Allow:
"""


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/anything", True),
        ("nonsense", "/", True),
        ("User-agent: *\nDisallow: /", "/x", False),
        ("User-agent: *\nDisallow:", "/x", True),
        ("User-agent: *\nDisallow: /x\nAllow: /x", "/x", True),
        ("User-agent: *\nDisallow: /x?y=", "/x?y=1", False),
        ("User-agent: luxx\nAllow: /\n\nUser-agent: *\nDisallow: /", "/x", True),
        ("\ufeffUser-agent: *\r\nDisallow: /x\r\n", "/x", False),
        (ROBOTS, "/ours/page", False),
        (ROBOTS, "/private", True),
        (ROBOTS.replace("LUXX/2.0", "x"), "/private/x", False),
        (ROBOTS.replace("LUXX/2.0", "x"), "/private/open/x", True),
        (ROBOTS.replace("LUXX/2.0", "x"), "/file.pdf", False),
        (ROBOTS.replace("LUXX/2.0", "x"), "/file.pdf?x", True),
        (ROBOTS.replace("LUXX/2.0", "x"), "/a1b2c3", False),
        (ROBOTS.replace("LUXX/2.0", "x"), "/北", False),
        (ROBOTS.replace("LUXX/2.0", "x"), "/%e5%8c%97", False),
        (ROBOTS.replace("LUXX/2.0", "x"), "/ours", True),
        ("User-agent: *\nDisallow: /a-%2A.html", "/a-*.html", False),
        ("User-agent: *\nDisallow: /a-%2A.html", "/a-%2a.html", False),
        ("User-agent: *\nDisallow: /a-%2A.html", "/a-b.html", True),
        ("User-agent: *\nDisallow: /a-*.html", "/a-%2A.html", False),
        ("User-agent: *\nDisallow: /a%24", "/a$b", False),
        ("User-agent: *\nDisallow: /a$", "/a$", True),
        ("User-agent: *\nDisallow: /a*a$", "/a", True),
        ("User-agent: *\nDisallow: /a*$", "/a", False),
    ],
)
def test_robots_txt_is_read_as_rfc_9309_says(text: str, path: str, allowed: bool) -> None:
    assert Robots.read(text).allows(path) is allowed


def test_a_pause_that_a_site_asks_for_is_kept_within_reason() -> None:
    assert Robots.read("User-agent: *\nCrawl-delay: 2.5").delay == 2.5
    assert Robots.read("User-agent: *\nCrawl-delay: 9999").delay == 10
    assert Robots.read("User-agent: *\nCrawl-delay: x").delay == 0


RULES = st.tuples(st.booleans(), st.text("/ab*$", min_size=1, max_size=8))


@given(st.lists(RULES, max_size=6), st.text("/ab$", max_size=10))
def test_the_longest_rule_that_matches_decides(rules: list[tuple[bool, str]], rest: str) -> None:
    text = "\n".join(f"{'Allow' if allow else 'Disallow'}: {rule}" for allow, rule in rules)
    matching = [(len(rule), allow) for allow, rule in rules if re.match(expression(rule), f"/{rest}", re.DOTALL)]
    assert Robots.read(f"User-agent: *\n{text}").allows(f"/{rest}") is max(matching, default=(0, True))[1]


def expression(rule: str) -> str:
    """Give what a rule says as a regular expression, as RFC 9309 tells it."""
    literal = ".*".join(re.escape(piece) for piece in rule.removesuffix("$").split("*"))
    return literal + (r"\Z" if rule.endswith("$") else "")


def calls_of(work: Callable[[], object]) -> int:
    """Count the functions that are called in the course of `work`."""
    count = 0

    def counted(_: object, event: str, __: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def as_long_as_may_be(line: str) -> str:
    head = "User-agent: *\n"
    return head + line * ((LARGEST_BYTES - len(head)) // len(line))


@pytest.mark.parametrize("line", ["Allow:/1\n", "Allow:/*a\n", "x:\n", "\n"])
def test_a_robots_txt_beyond_the_limits_is_not_worked_through_and_allows_nothing(line: str) -> None:
    text = as_long_as_may_be(line)
    assert calls_of(lambda: Robots.read(text)) < 10 * text.count("\n")
    assert not Robots.read(text).allows("/x")


@pytest.mark.parametrize("line", ["Disallow: /1\n", "# a comment\n", "User-agent: other\nDisallow: /\n"])
def test_a_large_robots_txt_within_the_limits_is_kept_to_its_end(line: str) -> None:
    text = f"User-agent: *\nDisallow:\n{line * 4_000}\nUser-agent: *\nDisallow: /last"
    assert not Robots.read(text).allows("/last")
    assert Robots.read(text).allows("/x")


@pytest.mark.parametrize(
    "rule",
    [f"/*{'a' * 120}b", f"/*{'a' * 4_000}b", f"/{'*a' * 3_000}*b", f"/{'a*' * 40}{'a' * 50}b*c"],
)
def test_rules_that_would_take_too_long_to_try_allow_nothing(rule: str) -> None:
    robots = Robots.read(as_long_as_may_be(f"Allow: {rule}\n"))
    assert not robots.allows("/" + "a" * 8_000)
    assert robots.allows("/" + "a" * 30)


@pytest.mark.parametrize("rule", ["/" + "a" * 2_000, "/*" + "a" * 2_000, "/" + "*a" * 2_000 + "$"])
def test_a_long_rule_is_kept_to_its_last_character(rule: str) -> None:
    robots = Robots.read(f"User-agent: *\nDisallow: {rule}")
    assert robots.allows("/" + "a" * 1_999)
    assert not robots.allows("/" + "a" * 2_000)


def test_no_robots_txt_explodes() -> None:
    hostile = f"Disallow: /{'*a' * 5000}$\n" * 20
    robots = Robots.read(f"User-agent: *\n{hostile}")
    assert robots.allows("/" + "a" * 4000 + "b")


@given(st.text(max_size=300), st.text(max_size=30))
def test_any_robots_txt_gives_an_answer(text: str, path: str) -> None:
    Robots.read("User-agent: *\n" + text).allows("/" + path)


@pytest.mark.parametrize("port", [22, 25, 6000, 6667])
def test_a_public_address_is_not_dialled_where_something_else_than_the_web_listens(port: int) -> None:
    assert not AddressRules().allows("host", ip_address("93.184.216.34"), port)
    assert AddressRules.allowing([f"93.184.216.34:{port}"]).allows("host", ip_address("93.184.216.34"), port)
