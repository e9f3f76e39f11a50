"""`Idempotency-Key`: a repeated POST gets the first one's answer and changes nothing."""

import hashlib
import re
from collections.abc import Coroutine
from typing import Any

from fastapi import Request, Response

from app.api.deps import BadHeader, attended
from app.registry.records import Replay
from app.services import Services

KEY = re.compile(r"[\x21-\x7e]{1,255}")
KEPT_HEADERS = ("content-type", "location", "etag")


async def once(request: Request, services: Services, work: Coroutine[Any, Any, Response]) -> Response:
    """Do the work of a POST that writes, once for each key; without a key, just do it.

    Only a success is remembered: after a failure nothing was stored, and the client may try again.
    Raises: `KeyInFlight` while the first request runs, `KeyReused` for another body under the key.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return await attended(request, work)
    if not KEY.fullmatch(key):
        work.close()
        raise BadHeader("Idempotency-Key is 1 to 255 visible ASCII characters.")
    url = request.url
    scope = f"{request.method} {url.path}?{url.query}"
    digest = hashlib.sha256(await request.body()).hexdigest()
    store, keys = services.workers.store, services.registry.idempotency
    try:
        replay = await store(keys.begin, key, scope, digest)
    except BaseException:
        work.close()
        raise
    if replay is not None:
        work.close()
        return Response(replay.body, replay.status, {**replay.headers, "Idempotent-Replayed": "true"})
    try:
        response = await attended(request, work)
    except BaseException:
        await store(keys.forget, key, scope)
        raise
    headers = {name: value for name, value in response.headers.items() if name in KEPT_HEADERS}
    await store(keys.finish, key, scope, Replay(response.status_code, headers, bytes(response.body)))
    return response
