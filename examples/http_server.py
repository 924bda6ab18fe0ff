"""A small HTTP service around an exported model: one file, no web framework, no ganspect.

    python http_server.py MODEL [--port 8080]
    curl --data-binary @part.png -H 'Content-Type: image/png' http://127.0.0.1:8080/predict

POST /predict       one PNG or JPEG file; answers with score, calibrated_score, threshold, label, height, width,
                    milliseconds
POST /predict?map=1 the same with "heat_map": a PNG in base64, black at 0, white from twice the pixel threshold on
GET /health         {"status": "ok"}
GET /metadata       the model's metadata.json

What it refuses, always with JSON {"error": ...}: 411 no length, 413 too many bytes (before they are read) or pixels
(before they are decoded), 415 another media type, 400 a damaged image, 422 one that is too small, 408 a client that is
too slow, 503 more requests at once than are let wait, 404 and 405 other paths and methods. It needs MODEL (the folder
of `ganspect export`), TensorFlow, NumPy and Pillow, and listens on this machine alone unless told otherwise: put it
behind a proxy with TLS and authentication before others may use it.
"""

import argparse
import base64
import io
import json
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import tensorflow as tf
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_BYTES = 32 << 20  # of a request
MAX_PIXELS = 20_000_000  # of an image
SECONDS = 10.0  # for a client to send, or to take, the next bytes
REQUEST_SECONDS = 60.0  # for a client to send a whole request
WAITING = 8  # requests at once; the others are told to come again
TYPES = ("image/png", "image/jpeg", "application/octet-stream")


class Refused(Exception):
    """A request that is answered with an error: `(status, message)`."""


class Model:
    """An exported model; one image at a time.

    Args:
        folder: what `ganspect export` wrote.
    """

    def __init__(self, folder):
        self.metadata = json.loads((Path(folder) / "metadata.json").read_text(encoding="utf-8"))
        self.loaded = tf.saved_model.load(str(Path(folder) / "1"))  # its signatures live as long as this object
        self.lock = threading.Lock()

    def predict(self, image, with_map):
        """What is answered for uint8 `[H, W, C]`."""
        with self.lock:
            start = time.perf_counter()
            found = self.loaded.signatures["serving_default"](images=tf.constant(image[None]))
            found = {name: value.numpy()[0] for name, value in found.items()}
            seconds = time.perf_counter() - start
        answer = {name: float(found[name]) for name in ("score", "calibrated_score", "threshold")}
        answer["label"] = "anomalous" if int(found["label"]) else "normal"
        answer |= {"height": image.shape[0], "width": image.shape[1], "milliseconds": round(seconds * 1000, 1)}
        if with_map:
            top = 2 * abs(self.metadata["pixel_threshold"]) or 1.0
            gray = np.rint(np.clip(found["anomaly_map"] / top, 0, 1) * 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(gray).save(buffer, "PNG")
            answer["heat_map"] = base64.b64encode(buffer.getvalue()).decode("ascii")
        return answer


def decode(data, channels, smallest):
    """An image file as uint8 `[H, W, channels]`.

    16 bits become 8 (value / 257), colour profiles and further frames are ignored, palettes and CMYK become RGB,
    transparency is composited over black, an EXIF orientation is applied.

    Raises:
        Refused: too large, too small, damaged, another format.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Refused(413, f"{width}x{height} pixels; the limit is {MAX_PIXELS}")
            if min(width / smallest[1], height / smallest[0]) < 1:
                raise Refused(422, f"{width}x{height} pixels; the model needs {smallest[1]}x{smallest[0]} or more")
            if image.format == "PNG":
                Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # checksums
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                image = Image.fromarray(
                    ((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8)
                )
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except Refused:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Refused(413, f"too many pixels; the limit is {MAX_PIXELS}") from None
    except UnidentifiedImageError:
        raise Refused(400, "neither a PNG nor a JPEG file") from None
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise Refused(400, f"the image is damaged ({type(error).__name__})") from None
    return np.ascontiguousarray(pixels[..., None] if channels == 1 else pixels)


class Handler(BaseHTTPRequestHandler):
    """One connection; the server has the model."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ganspect-example", ""
    timeout = SECONDS

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def _other(self):
        self._send(405, {"error": "GET or POST"}, close=True)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _other

    def _get(self):
        path = urlsplit(self.path).path
        if path == "/health":
            return {"status": "ok"}
        if path == "/metadata":
            return self.server.model.metadata
        raise Refused(405, "POST an image") if path == "/predict" else Refused(404, "/predict, /health, /metadata")

    def _post(self):
        address = urlsplit(self.path)
        if address.path != "/predict":
            raise Refused(404, "/predict, /health, /metadata")
        kind = self.headers.get("Content-Type", "application/octet-stream").split(";")[0].strip().lower()
        if kind not in TYPES:
            raise Refused(415, f"one of {', '.join(TYPES)}")
        model = self.server.model
        image = decode(self._body(), model.metadata["channels"], model.metadata["smallest"])
        return model.predict(image, parse_qs(address.query).get("map") == ["1"])

    def _body(self):
        """The request's bytes."""
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "send a Content-Length, not chunks")
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()) or len(lengths[0]) > 18:
            raise Refused(411 if not lengths else 400, "one Content-Length, in bytes")
        length = int(lengths[0])
        if length > MAX_BYTES:
            raise Refused(413, f"{length} bytes; the limit is {MAX_BYTES}")
        if not length:
            raise Refused(400, "no image: 0 bytes")
        parts, left, end = [], length, time.monotonic() + REQUEST_SECONDS
        while left:
            part = self.rfile.read1(min(left, 1 << 16))
            if not part:
                raise Refused(400, f"{length - left} bytes came, {length} were announced")
            if time.monotonic() > end:
                raise Refused(408, "the request took too long")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _answer(self, work):
        """Sends what `work` returns or raises; nothing gets past it."""
        if not self.server.room.acquire(blocking=False):
            self._send(503, {"error": "busy, try again"}, close=True)
            return
        try:
            try:
                status, content = 200, work()
            except Refused as refused:
                status, content = refused.args[0], {"error": refused.args[1]}
            except TimeoutError:
                status, content = 408, {"error": "the client is too slow"}
            except ConnectionError:
                self.close_connection = True
                return
            except Exception as error:
                self.log_error("%s", repr(error))
                status, content = 500, {"error": "the server failed"}
            self._send(status, content, close=status != 200)  # unread bytes may follow what was refused
        finally:
            self.server.room.release()

    def _send(self, status, content, close=False):
        data = json.dumps(content).encode()
        self.close_connection = self.close_connection or close
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        except OSError:  # the client is gone
            self.close_connection = True

    def send_error(self, code, message=None, explain=None):
        """What the standard library refuses by itself: broken request lines, headers that are too long."""
        self._send(code, {"error": message or "bad request"}, close=True)

    def log_message(self, format, *arguments):
        if self.server.verbose:
            super().log_message(format, *arguments)


class Server(ThreadingHTTPServer):
    """The service.

    Args:
        address: `(host, port)`; port 0 takes a free one.
        model: `Model`.
        verbose: whether to log each request.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address, model, verbose=False):
        super().__init__(address, Handler)
        self.model, self.verbose, self.room = model, verbose, threading.BoundedSemaphore(WAITING)

    def handle_error(self, request, client_address):
        """A connection that broke is no news."""


def main(arguments=None):
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of ganspect export")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    server = Server((options.host, options.port), Model(options.model), options.verbose)
    print(f"serving {options.model} on http://{options.host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
