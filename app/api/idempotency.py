"""`Idempotency-Key`: a repeated POST gets the first one's answer and changes nothing."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from app.api.deps import BadHeader, attended
from app.api.headers import header
from app.registry.records import Replay
from app.services import Services
from app.services.call import Call

KEY = re.compile(r"[\x21-\x7e]{1,255}")
KEPT_HEADERS = ("content-type", "location", "etag")


async def once(request: Request, services: Services, call: Call, work: Callable[[], Awaitable[Response]]) -> Response:
    """Do the work of a POST that writes, once for each key; without a key, just do it.

    Only a success is remembered: after a failure nothing was stored, and the client may try again.
    Raises: `KeyInFlight` while the first request runs, `KeyReused` for another body under the key.
    """
    key = header(request, b"idempotency-key")
    if key is None:
        return await attended(request, call, work)
    if not KEY.fullmatch(key):
        raise BadHeader("Idempotency-Key is 1 to 255 visible ASCII characters.")
    scope = f"{request.method} {request.url.path}?{request.url.query}"
    store, keys = services.workers.store_fully, services.registry.idempotency

    async def keyed() -> Response:
        digest = await services.workers.decode(_digest, await request.body())
        task = asyncio.current_task()
        replay = await store(keys.begin, key, scope, digest)
        if replay is not None:
            return Response(replay.body, replay.status, {**replay.headers, "Idempotent-Replayed": "true"})
        try:
            if task is not None and task.cancelling():  # while the key was taken: nothing has been done yet
                raise asyncio.CancelledError
            response = await work()
        except BaseException:
            await store(keys.forget, key, scope)
            raise
        headers = {name: value for name, value in response.headers.items() if name in KEPT_HEADERS}
        await store(keys.finish, key, scope, Replay(response.status_code, headers, bytes(response.body)))
        return response

    return await attended(request, call, keyed)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
