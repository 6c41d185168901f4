"""Every module of the service, and the service itself, opened and closed."""

import asyncio
import pkgutil
from importlib import import_module
from pathlib import Path

import luxx
from luxx.container import Container
from luxx.entrypoints.http.app import create_app
from luxx.settings import Settings
from luxx.testing.served import serving

OF_OTHER_EXTRAS = ("luxx.testing", "luxx.client", "luxx.entrypoints.cli.chat", "luxx.terminal")


async def main() -> None:
    app = create_app(Container(settings=Settings(data_dir=Path("data"))))
    async with serving(app) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /health/ready HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()


for module in pkgutil.walk_packages(luxx.__path__, "luxx."):
    if not module.name.startswith(OF_OTHER_EXTRAS) and not module.name.endswith("__main__"):
        import_module(module.name)
asyncio.run(main())
