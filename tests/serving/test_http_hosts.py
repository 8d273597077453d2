"""By which names the service may be called, HEAD, and pictures as Base64 of any shape, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from http_service import Service, running_service
from raw_http import detect, form, request

from glip_export.errors import GlipExportError
from glip_export.runtime.requests import image_key
from glip_export.serving import hosts as hosts_module
from glip_export.serving.hosts import Hosts, is_loopback

PATHS = ("/", "/page.js", "/icon.svg", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/model")
LOCAL = (
    "localhost",
    "localhost:8000",
    "LocalHost:1",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:65535",
    "[::1]",
    "[::1]:80",
)
FOREIGN = (
    *("attacker.example", "attacker.example:8000", "localhost.attacker.example", "127.0.0.1.nip.io", "1.2.3.4.example"),
    *(
        "localhost@attacker.example",
        "localhost:80:80",
        "localhost:x",
        "::1",
        "[::1",
        "[localhost]",
        "loc\xaalhost",
        "",
        "a b",
    ),
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as running:
        yield running


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module.socket, "gethostname", lambda: "Box7.lab.example")


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_on_loopback_only_its_own_names(bound: str) -> None:
    hosts = Hosts(bound)
    assert all(hosts.accepts(host) for host in LOCAL)
    assert not any(hosts.accepts(host) for host in (*FOREIGN, "192.168.0.9", "0.0.0.0", "box7", "[2001:db8::1]"))
    assert hosts.accepts("127.0.0.2:80") == (bound == "127.0.0.2")
    assert hosts.accepts(None)  # HTTP/1.0, which no browser speaks


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "192.168.0.9"])
def test_on_other_addresses_every_address_and_the_machines_name(bound: str) -> None:
    hosts = Hosts(bound)
    assert all(
        hosts.accepts(host) for host in (*LOCAL, "10.0.0.7:8000", "[2001:db8::1]:8000", "box7", "box7.lab.example:1")
    )
    assert not any(hosts.accepts(host) for host in FOREIGN)


def test_further_names_are_allowed() -> None:
    hosts = Hosts("127.0.0.1", ["Glip.Example.org.", "gpu_box", "bücher.example", "[2001:db8::1]", "10.1.2.3"])
    for host in (
        "glip.example.org",
        "GLIP.example.org:443",
        "gpu_box",
        "xn--bcher-kva.example",
        "[2001:DB8::1]:1",
        "10.1.2.3",
    ):
        assert hosts.accepts(host), host
    assert not any(hosts.accepts(host) for host in (*FOREIGN, "a.glip.example.org", "10.1.2.4"))
    assert all(Hosts("0.0.0.0", ["*"]).accepts(host) for host in (*FOREIGN, *LOCAL))
    for word in ("glip.example.org:8000", "http://glip", "*.example.org", "", "a b", "glip/x"):
        with pytest.raises(GlipExportError, match=r"--allow-host .* is no host name: give it as glip.example.org"):
            Hosts("127.0.0.1", [word])


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box7", "localhost.attacker.example")))


@pytest.mark.parametrize("path", [*PATHS, "/v1/detect", "/nowhere"])
def test_dns_rebinding_is_refused_on_every_path(service: Service, path: str) -> None:
    for method in ("GET", "POST"):
        reply = service.ask(request(path, method=method, host="attacker.example:8000"))
        error = reply.json()["error"]
        assert reply.status == 403 and error["code"] == "forbidden" and "--allow-host NAME" in error["message"]
        assert "'attacker.example:8000'" in error["message"] and "\n" not in error["message"]
        assert "content-security-policy" in reply.headers


def test_a_refused_picture_is_read_so_that_its_sender_reads_why(service: Service) -> None:
    body, headers = form([("image", b"x" * 3_000_000), ("prompt", b"cat")])
    reply = service.ask(request("/v1/detect", body, headers, host="attacker.example"))
    assert reply.status == 403 and not service.value("glip_requests_total", path="/v1/detect", code="200")
    assert len(service.ask(request(host="a" * 5000)).json()["error"]["message"]) < 200


def test_the_other_checks_of_a_sender_stand(service: Service) -> None:
    reply = service.ask(request("/v1/model", headers={"Sec-Fetch-Site": "cross-site"}, method="GET"))
    assert reply.status == 403 and "other sites" in reply.json()["error"]["message"]
    host, port = service.address
    reply = service.ask(
        request("/v1/model", headers={"Sec-Fetch-Site": "same-origin"}, method="GET", host=f"{host}:{port}")
    )
    assert reply.status == 200
    assert service.ask(b"GET /healthz HTTP/1.0\r\n\r\n").status == 200
    assert service.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: a\r\n\r\n").status in (400, 403)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_answered_as_get_without_the_body(service: Service, path: str) -> None:
    """HEAD /healthz answered 405."""
    get, head = (service.ask(request(path, method=method)) for method in ("GET", "HEAD"))
    assert (get.status, head.status) == (200, 200)
    assert get.body and not head.body
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":  # which counts
        assert head.headers["content-length"] == get.headers["content-length"]


def test_head_on_what_is_not_there(service: Service) -> None:
    assert service.ask(request("/nowhere", method="HEAD")).status == 404
    assert service.ask(request("/v1/detect", method="HEAD")).status == 405
    assert "head" not in service.ask(request("/openapi.json", method="GET")).json()["paths"]["/healthz"]


@pytest.mark.parametrize("form_of", ["plain", "lines", "url"])
def test_base64_with_line_breaks_and_data_urls_over_http(service: Service, form_of: str) -> None:
    picture = bytes(range(200))
    plain = base64.b64encode(picture).decode()
    lines = base64.encodebytes(picture).decode().replace("\n", "\r\n")
    data = {"plain": plain, "lines": lines, "url": f"data:image/png;base64,{plain}"}[form_of]
    body = json.dumps({"images": [{"data": data}], "prompt": "cat"}).encode()
    reply = service.ask(request(body=body, headers={"Content-Type": "application/json"}))
    assert reply.status == 200
    assert reply.json()["results"][0]["image"]["id"] == image_key(picture)
    assert reply.json()["results"] == service.ask(detect(picture, "cat")).json()["results"]


def test_base64_that_is_none_is_told_with_its_place(service: Service) -> None:
    body = json.dumps({"images": [{"data": "YWJj"}, {"data": "data:image/png,x"}], "prompt": "cat"}).encode()
    reply = service.ask(request(body=body, headers={"Content-Type": "application/json"}))
    assert reply.status == 400
    message = "picture 2: its data is no valid base64: a data: URL must be base64: data:image/png;base64,..."
    assert reply.json()["error"] == {"code": "bad_request", "message": message}
