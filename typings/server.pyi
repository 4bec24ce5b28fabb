from collections.abc import Container

from aiohttp import web

class PromptServer:
    instance: PromptServer
    routes: web.RouteTableDef
    sockets: Container[str]
    client_id: str | None

    def send_sync(self, event: str, data: dict, sid: str | None = None) -> None: ...
