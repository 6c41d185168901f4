"""HTTPS through the one door: the name is checked although an address is dialled."""

import asyncio
import ssl
from pathlib import Path

import pytest
from tests.support.certificates import certificate_for
from tests.support.web import web_server

from luxx.adapters.tools.web.addresses import AddressRules
from luxx.adapters.tools.web.client import WebClient
from luxx.domain.errors import ToolBroken

from .conftest import at_a_stretch


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate_for("owls.example", tmp_path_factory.mktemp("tls"))


async def test_the_certificate_is_checked_against_the_name_and_not_the_address(certificate: tuple[Path, Path]) -> None:
    names: list[str | None] = []
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate)
    serving.sni_callback = lambda _socket, name, _context: names.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    async with web_server(serving) as site:
        site.pages["/"] = "<p>owls"
        rules = AddressRules.allowing([site.host])
        client = WebClient(rules, ssl_context=trusting, look_up=lambda _: ["127.0.0.1"])
        try:
            answer = await client.get(f"https://owls.example:{site.port}/")
            assert answer.body == b"<p>owls"
            assert names == ["owls.example"]
            assert site.asked[-1].headers["host"] == f"owls.example:{site.port}"
            with pytest.raises(ToolBroken, match="certificate is not valid"):
                await client.get(f"https://mice.example:{site.port}/")
        finally:
            await client.aclose()


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: tuple[Path, Path]) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate)
    async with web_server(serving) as site:
        client = WebClient(AddressRules.allowing([site.host]), look_up=lambda _: ["127.0.0.1"])
        with pytest.raises(ToolBroken, match="certificate is not valid"):
            await client.get(f"https://owls.example:{site.port}/")
        await client.aclose()
        assert not site.asked


async def test_a_secure_answer_of_many_small_pieces_lets_others_run(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decrypted is there without any waiting."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n")
        await writer.drain()

    async with web_server(serving) as site:
        site.pages["/"] = flood
        rules = AddressRules.allowing([site.host])
        client = WebClient(rules, ssl_context=trusting, look_up=lambda _: ["127.0.0.1"])
        try:
            async with at_a_stretch(monkeypatch) as steps:
                assert len((await client.get(f"https://owls.example:{site.port}/")).body) == 60_000
        finally:
            await client.aclose()
    assert max(steps) < 1_000
