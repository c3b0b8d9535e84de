"""The page needs nothing but its own server: its files, their headers, and the hosts they name."""

import re
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from sonant.serve.page import STATIC, is_public, routes, static_files

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in STATIC.iterdir()}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(routes())
    return TestClient(app)


class Tags(HTMLParser):
    """Every tag of the page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


PAGE = Tags(TEXTS["index.html"]).found


def test_the_page_is_served_at_the_root(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.text == TEXTS["index.html"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert client.head("/").status_code == 200


def test_every_file_of_the_page_is_served_as_what_it_is(client: TestClient) -> None:
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    for name, text in TEXTS.items():
        answer = client.get(f"/page/{name}")
        assert answer.text == text
        assert answer.headers["content-type"].startswith(kinds[name.split(".")[1]])


@pytest.mark.parametrize(
    "name", ["nothing.js", "../page.py", "..%2Fpage.py", "%2e%2e%2fpage.py", "%2Fetc%2Fpasswd", "main.js%00", ""]
)
def test_what_is_no_file_of_the_page_is_not_found_wherever_it_is(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_a_page_that_has_not_changed_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/page/main.js")
    again = client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/main.js", headers={"If-None-Match": '"of yesterday"'}).content == first.content


def test_the_page_stays_out_of_the_schema_of_the_api(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


def test_the_policy_allows_this_server_and_nothing_else(client: TestClient) -> None:
    for path in ("/", *(f"/page/{name}" for name in TEXTS)):
        headers = client.get(path).headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert {sources for rule, sources in policy.items() if rule.endswith("-src")} == {"'none'", "'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"


def test_no_file_names_another_host() -> None:
    namespace = "http://www.w3.org/2000/svg"
    for name, text in TEXTS.items():
        assert not re.findall(r"""(?:https?|wss?):?//|["'(]//""", text.replace(namespace, "")), name


def test_the_policy_breaks_nothing_of_the_page() -> None:
    for tag, attributes in PAGE:
        assert tag != "style", "styles are files: the policy forbids inline ones"
        assert tag != "script" or attributes.get("src"), "scripts are files: the policy forbids inline ones"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    for name, text in SCRIPTS.items():
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )


def test_every_file_that_another_names_exists() -> None:
    for name, text in TEXTS.items():
        for found in re.findall(r"""["'(](?:/page/|\./)([\w.-]+\.(?:js|css|svg))""", text):
            assert found in TEXTS, f"{name} names {found}"
    named = " ".join(TEXTS.values())
    assert not [name for name in TEXTS if name not in named and name != "index.html"], "a file that nothing names"


def test_every_element_that_a_script_looks_up_is_in_the_page() -> None:
    ids = {attributes["id"] for _, attributes in PAGE if "id" in attributes}
    icons = {str(one).removeprefix("i-") for one in ids if str(one).startswith("i-")}
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= ids, name
        assert set(re.findall(r'(?:\bicon|iconButton)\("([\w-]+)"', text)) <= icons, name
    assert {str(a["href"]).removeprefix("#i-") for tag, a in PAGE if tag == "use"} <= icons


def test_every_control_has_a_name_that_can_be_read_aloud() -> None:
    for tag, attributes in PAGE:
        if tag == "button" and "icon-button" in (attributes.get("class") or ""):
            assert attributes.get("aria-label")
        if tag == "textarea" and attributes.get("id"):
            assert attributes.get("aria-label")


def test_files_keep_to_the_budget_of_lines() -> None:
    for name, text in TEXTS.items():
        assert len(text.splitlines()) <= 400, name
    assert sum(map(len, TEXTS.values())) < 120_000  # all of the page, as it is sent


def test_the_page_alone_is_open_without_a_key() -> None:
    assert is_public("/")
    assert is_public("/page/main.js")
    for path in ("/v1/models", "/page", "/pages/main.js", "//", "/v1/page/", "/metrics"):
        assert not is_public(path)


def test_only_files_of_the_page_are_read() -> None:
    assert set(static_files()) == set(TEXTS)
