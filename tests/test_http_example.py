"""The HTTP example under hostile requests: each is answered with 4xx, good images always with their score."""

import base64
import http.client
import importlib.util
import io
import json
import socket
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import served_models
from PIL import Image

spec = importlib.util.spec_from_file_location(
    "http_server", Path(__file__).resolve().parents[1] / "examples" / "http_server.py"
)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The service on a free port, with short limits."""
    patch = pytest.MonkeyPatch()
    patch.setattr(example.Handler, "timeout", 1.0)
    patch.setattr(example, "REQUEST_SECONDS", 1.5)
    model = example.Model(served_models.make(tmp_path_factory.mktemp("served")))
    running = example.Server(("127.0.0.1", 0), model)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()
    patch.undo()


def picture(seed=0, size=(20, 30)):
    return np.random.default_rng(seed).integers(40, 200, size, dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def ask(server, body=b"", method="POST", path="/predict", kind="image/png", **headers):
    """Status and JSON of one request."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
    finally:
        connection.close()


def raw(server, data, wait=b""):
    """Status of what is sent as it is; None where the connection is closed without one."""
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(data)
        if wait is None:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
    return int(found.split()[1]) if found.startswith(b"HTTP/") else None


def is_well(server):
    """A good image has the score that the model gives."""
    image = picture()
    status, answer = ask(server, encoded(image))
    expected = server.model.loaded.signatures["serving_default"](images=image[None, ..., None])
    assert status == 200 and answer["score"] == pytest.approx(float(expected["score"][0]))
    assert (answer["height"], answer["width"]) == (20, 30) and answer["label"] in ("normal", "anomalous")


def bomb(width, height):
    """A PNG of so many black pixels in a few kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_answers_of_good_images(server):
    is_well(server)
    _, answer = ask(server, encoded(picture()), path="/predict?map=1")
    heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["heat_map"]))))
    assert heat.shape == (20, 30) and heat.std() > 0
    gray = picture(3, (16, 16))
    for image in (
        encoded(gray, "JPEG", quality=95),
        encoded(Image.fromarray(gray).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(gray).convert("P")),
        encoded(Image.fromarray(gray).convert("RGBA")),
        encoded(Image.fromarray(gray.astype(np.uint16) * 257)),
        encoded(Image.fromarray(gray > 100)),
    ):
        for kind in ("image/png", "image/jpeg", "application/octet-stream"):
            status, answer = ask(server, image, kind=kind)
            assert status == 200 and np.isfinite(answer["score"]), answer
    assert ask(server, method="GET", path="/health") == (200, {"status": "ok"})
    assert ask(server, method="GET", path="/metadata")[1]["method"] == "plain"


def test_sixteen_bits_and_transparency_become_what_they_say(server):
    gray = picture(3, (16, 16))
    plain = ask(server, encoded(gray))[1]["score"]
    assert ask(server, encoded(Image.fromarray(gray.astype(np.uint16) * 257)))[1]["score"] == pytest.approx(plain)
    clear = Image.merge("LA", [Image.fromarray(gray), Image.new("L", (16, 16), 0)])
    assert ask(server, encoded(clear))[1]["score"] == 0.0  # black


def test_damaged_files_are_refused(server):
    """Cut at every length, and with flipped bits: an error, or an answer where the damage is none to the decoder."""
    for kind in ("PNG", "JPEG"):
        whole = encoded(picture(1, (24, 24)), kind)
        for length in np.linspace(0, len(whole) - 1, 60).astype(int):
            status, answer = ask(server, whole[:length])
            complete = len(whole) - length <= (12 if kind == "PNG" else 2)  # every pixel is there, the end mark is not
            assert status == 400 or (complete and status == 200), (length, answer)
        rng, found = np.random.default_rng(0), []
        for _ in range(60):
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 4):
                broken[place] ^= 1 << rng.integers(8)
            status, answer = ask(server, bytes(broken))
            assert status in (200, 400, 413, 422) and (status == 200) == ("score" in answer), answer
            found.append(status)
        assert 400 in found
    is_well(server)


def test_what_is_no_image_or_too_large_or_too_small_is_refused(server):
    frames = [Image.fromarray(picture(i)) for i in range(2)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for body in (
        b"",
        b"text",
        b"\x89PNG\r\n\x1a\n",
        bytes(5000),
        gif,
        encoded(picture(), "TIFF"),
        encoded(picture(), "BMP"),
    ):
        status, answer = ask(server, body)
        assert status == 400 and "error" in answer
    assert ask(server, bomb(20_000, 20_000))[0] == 413
    assert (
        ask(server, encoded(np.zeros((7, 40), np.uint8)))[0]
        == ask(server, encoded(np.zeros((1, 1), np.uint8)))[0]
        == 422
    )
    assert ask(server, encoded(np.zeros((1, 3000), np.uint8)))[0] == 422
    for kind in ("text/html", "image/gif", "application/json", "multipart/form-data; boundary=x"):
        assert ask(server, encoded(picture()), kind=kind)[0] == 415
    is_well(server)


def test_paths_and_methods(server):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        assert ask(server, method=method)[0] == 405
    assert ask(server, method="GET")[0] == 405
    for path in ("/", "/predict/", "/../metadata", "/%2e%2e/etc/passwd", "/health/x", "//", "/predict%00"):
        assert ask(server, encoded(picture()), path=path)[0] == 404
    is_well(server)


def test_lengths_that_lie_or_are_missing(server):
    image = encoded(picture())
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    assert raw(server, head + b"\r\n") == 411
    assert raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n") == 411
    for length in (b"-1", b"x", b"1e3", b"+5", b"\xb2", b"0", b"9" * 30):
        assert raw(server, head + b"Content-Length: " + length + b"\r\n\r\n" + image) == 400, length
    assert raw(server, head + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\n" + image) == 400
    assert raw(server, head + b"Content-Length: 99999999999\r\n\r\n") == 413
    assert raw(server, head + b"Content-Length: %d\r\n\r\n" % (len(image) - 9) + image[:-9]) == 400
    assert raw(server, head + b"Content-Length: %d\r\n\r\n" % (len(image) + 9) + image, wait=None) == 400
    is_well(server)


def test_slow_clients_and_broken_lines(server):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 500\r\n\r\n"
    assert raw(server, head + b"\x89PNG") == 408  # sends no more
    assert raw(server, b"POST /predict HTTP/1.1\r\nHost: x\r\n") is None  # closed without an answer
    for line in (
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00\xff\x00\r\n\r\n",
        b"A" * 70_000 + b"\r\n\r\n",
    ):
        status = raw(server, line)
        assert status is None or 400 <= status <= 505, line[:20]
    many = b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(300)) + b"\r\n"
    assert raw(server, many) == 431
    is_well(server)


def test_more_at_once_than_there_is_room_for(server):
    """Those that hold a place and send nothing are let go; until then others are told to come again."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 500\r\n\r\n"
    held = [socket.create_connection(server.server_address, timeout=20) for _ in range(example.WAITING)]
    try:
        for connection in held:
            connection.sendall(head)
        while server.room._value:
            pass
        assert ask(server, encoded(picture()))[0] == 503
        assert all(b" 408 " in connection.recv(64) for connection in held)
    finally:
        for connection in held:
            connection.close()
    while server.room._value < example.WAITING:
        pass
    is_well(server)


def test_a_failure_of_the_model_is_no_secret_and_no_end(server):
    image = picture()
    image[0, 0] = served_models.FAILS
    status, answer = ask(server, encoded(image))
    assert (status, answer) == (500, {"error": "the server failed"})
    is_well(server)
