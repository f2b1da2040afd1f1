"""The page that all the lab's systems have: it blocks for ?ms=."""
import time
from urllib.parse import parse_qs


def application(environ, start_response):
    ms = int(parse_qs(environ.get("QUERY_STRING", "")).get("ms", ["20"])[0])
    time.sleep(ms / 1000)
    text = f"worked {ms} ms\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]
