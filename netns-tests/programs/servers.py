"""Servers of Python's own: http.server, cheroot, and one whose process dies in the middle of its answers.

usage: servers.py CERTIFICATE KEY; each listens on its port for HTTP, and on the one 400 higher for HTTPS
"""

import http.server
import os
import select
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time

import cheroot.ssl.builtin
import cheroot.wsgi

CERTIFICATE, KEY = sys.argv[1:]
BODIES = {"/large": b"x" * 100_000, "/huge": b"x" * 20_000_000}


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = BODIES.get(self.path, b"an answer\n")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Dies(Answers):
    """A process for each connection, which the handler kills."""

    def do_GET(self):
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", "1000")
        self.end_headers()
        if self.path == "/slow":
            time.sleep(3)
        self.wfile.write(b"9\r\nhalf of i\r\n" if self.path == "/chunked" else b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)

    def do_POST(self):
        self.rfile.read(1000)
        select.select([self.connection], [], [])  # something is unread now: the kernel resets
        os.kill(os.getpid(), signal.SIGKILL)


class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


class Forks(socketserver.ForkingMixIn, http.server.HTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def handle_error(self, *_):
        pass


def application(environ, start_response):
    body = BODIES.get(environ["PATH_INFO"], b"an answer\n")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
for kind, handler, port in ((Threads, Answers, 8001), (Forks, Dies, 8003)):
    serve(kind(("::", port), handler))
    secure = kind(("::", port + 400), handler)
    secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
    serve(secure)
for port in (8002, 8402):
    server = cheroot.wsgi.Server(("::", port), application, numthreads=16)
    if port == 8402:
        server.ssl_adapter = cheroot.ssl.builtin.BuiltinSSLAdapter(CERTIFICATE, KEY)
    server.prepare()
    threading.Thread(target=server.serve, daemon=True).start()
print("ready", flush=True)
signal.pause()
