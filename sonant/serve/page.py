"""The page that is served at `/`: a handful of static files, read once, that talk to this server and to nobody else.

GET /               index.html
GET /page/{name}    its scripts, styles and icon

What a client names is looked up in a table, never on the disk. Nothing here is secret: the page is served without a
key, and asks its reader for one when the server wants it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

PUBLIC = ("/", "/page/")  # what needs no key: the first as it stands, the second and all below it
STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No inline script or style, no eval, no host but this one; text cannot become markup (Trusted Types).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, answered 304 where nothing changed
}


@dataclass(frozen=True)
class StaticFile:
    """A file of the page as it is sent."""

    body: bytes
    media_type: str
    etag: str


def static_files() -> dict[str, StaticFile]:
    """Returns every file of the page by its name."""
    found = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in MEDIA_TYPES:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[path.name] = StaticFile(body, MEDIA_TYPES[path.suffix], etag)
    return found


def is_public(path: str) -> bool:
    """Returns whether a request path belongs to the page, which is served without a key."""
    exact, below = PUBLIC
    return path == exact or path.startswith(below)


def routes() -> APIRouter:
    """Returns the page's routes; they stay out of the API's schema."""
    router, files = APIRouter(include_in_schema=False), static_files()

    @router.api_route("/", methods=["GET", "HEAD"])
    def index(request: Request) -> Response:
        return _sent(files["index.html"], request)

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    def part(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file of this name; it has {', '.join(files)}")
        return _sent(files[name], request)

    return router


def _sent(file: StaticFile, request: Request) -> Response:
    headers = HEADERS | {"ETag": file.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
