"""A WSGI application that writes a line for each request that it took, and answers with method and target."""

import json
import os

LOG = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def app(environ, start_response):
    body, whole = b"", True
    try:
        while piece := environ["wsgi.input"].read(65536):
            body += piece
    except Exception:  # each worker has an exception of its own for a body that stops
        whole = False
    length = environ.get("CONTENT_LENGTH")
    whole = whole and (not length or int(length) == len(body))
    seen = {
        "id": environ.get("HTTP_X_REQUEST_ID", ""),
        "method": environ["REQUEST_METHOD"],
        "target": environ["RAW_URI"],
        "body": body.decode("latin-1"),
        "whole": whole,
    }
    os.write(LOG, (json.dumps(seen) + "\n").encode())
    words = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(words)))])
    return [words]
