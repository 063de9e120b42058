"""Refuse requests that the page of demo.py has no use for, before Gradio sees them.

Gradio takes a dictionary with a path or a URL, in the place of any value, for a file: it opens the file, or fetches the
URL, and keeps a copy. (Its own check of the path is left out where the page is mounted in another application.) Neither
is needed here, since pictures travel within the requests.
"""

import json
import socket
from urllib.parse import urlsplit

MOST_BYTES = 20_000_000  # of a picture
MOST_BODY = MOST_BYTES * 4 // 3 + 10_000  # of a request: in base64, four letters hold three bytes
API = "/gradio_api/"
# What the page, and programs, may ask of the API, by its beginning; and all pages, scripts and fonts outside it.
OFFERED = {
    "GET": ("app_id", "call/", "heartbeat/", "info", "openapi.json", "queue/data", "startup-events", "theme.css"),
    "POST": ("api/", "call/", "queue/join", "run/"),
}


class Refused(Exception):
    """A request that is refused: its HTTP status, and the reason in words."""


def guard(app, host):
    """Return an ASGI application that passes to `app` only requests that belong to the page.

    host: the address that the page listens on. A request must name it, this machine or the address at which it arrived:
    otherwise a foreign page could reach this one by a name of its own that leads here (DNS rebinding).
    """
    names = {"localhost", "127.0.0.1", host.lower()}
    if host != "127.0.0.1":  # for others in the network
        machine = socket.gethostname().lower()
        names |= {machine, f"{machine}.local"}

    async def answer(scope, receive, send):
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        try:
            check_sender(scope, names)
            check_path(scope)
            if scope["method"] == "POST":
                receive = replay(await read_body(scope, receive), receive)
        except Refused as refused:
            status, reason = refused.args
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            return await send({"type": "http.response.body", "body": reason.encode()})
        return await app(scope, receive, send)

    return answer


def check_sender(scope, names):
    """Raise Refused unless a request is meant for this page and comes from it, or from no page at all."""
    sent = [(key, value.decode("latin-1").lower()) for key, value in scope["headers"]]
    try:
        (host,) = (value for key, value in sent if key == b"host")
        asked = urlsplit(f"//{host}").hostname
    except ValueError:
        raise Refused(400, "A request needs one header Host.") from None
    if asked not in {*names, scope["server"][0]}:
        raise Refused(403, "This page is not served under this name; use the address that demo.py prints.")
    if any(key == b"origin" and value.partition("://")[2] != host for key, value in sent):
        raise Refused(403, "Other pages may not use this one.")


def check_path(scope):
    """Raise Refused unless the page offers what a request asks for."""
    method, path = scope["method"].replace("HEAD", "GET"), scope["path"]
    offered = tuple(API + name for name in OFFERED.get(method, ()))
    if (method != "GET" or path.startswith(API)) and not path.startswith(offered):
        raise Refused(404, "This page offers no such thing.")


async def read_body(scope, receive):
    """Return the body of a request, bytes. Raise Refused if it is too large, no JSON, or names a path or a URL."""
    body, more, is_too_large = bytearray(), True, False
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request is not complete.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY:  # the rest is dropped: a sender that is cut off would not read the answer
            is_too_large = True
            body.clear()
    if is_too_large:
        raise Refused(413, f"A picture may have {MOST_BYTES // 10**6} MB at most; make it smaller first.")
    try:
        json.loads(body, object_hook=refuse_files)
    except (ValueError, RecursionError):
        raise Refused(400, "The request is no JSON.") from None
    return bytes(body)


def refuse_files(fields):
    """Raise Refused if an object in JSON is a file to Gradio."""
    if {"path", "url", "orig_name"} & fields.keys():
        raise Refused(403, "This page opens no files: send the content of a picture, in base64.")
    return fields


def replay(body, receive):
    """Return an ASGI `receive` that gives a body that has been read already, and then what follows it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again():
        return messages.pop() if messages else await receive()

    return receive_again
