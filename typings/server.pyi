from collections.abc import Container

from aiohttp import web

class PromptServer:
    instance: PromptServer
    routes: web.RouteTableDef
    sockets: Container[str]
    client_id: str | None

    def send_progress_text(self, text: str, node_id: str, sid: str | None) -> None: ...
