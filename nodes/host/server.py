"""What the pack's pages may ask the host's server."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from server import PromptServer

from ...lora2_core.errors import LoRA2Error


def serve(path: str, answer: Callable[[dict[str, str]], dict | None]) -> None:
    """GET path?…, answered as JSON by answer(parameters), off the event loop.

    404 for None, 422 for a LoRA2Error, both as {"error": text}.
    """

    @PromptServer.instance.routes.get(path)
    async def respond(request: web.Request) -> web.Response:
        try:
            found = await asyncio.to_thread(answer, dict(request.query))
        except LoRA2Error as error:
            return web.json_response({"error": str(error)}, status=422)
        if found is None:
            gone = "this adapter is no longer at hand; run the node again"
            return web.json_response({"error": gone}, status=404)
        return web.json_response(found)


def serve_picture(path: str, answer: Callable[[dict[str, str]], bytes | None]) -> None:
    """GET path?…, answered by answer(parameters) with a JPEG, off the event loop; 404 for None."""

    @PromptServer.instance.routes.get(path)
    async def respond(request: web.Request) -> web.Response:
        found = await asyncio.to_thread(answer, dict(request.query))
        if found is None:
            return web.Response(status=404)
        kept = {"Cache-Control": "private, max-age=86400"}  # a picture is never drawn twice
        return web.Response(body=found, content_type="image/jpeg", headers=kept)
