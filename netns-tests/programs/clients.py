"""Clients of Python's: how many of so many requests to each URL they take for answered, with and without keep-alive.

usage: clients.py urllib|http.client|requests|aiohttp COUNT CERTIFICATE URL...
"""

import asyncio
import http.client
import ssl
import sys
import urllib.parse
import urllib.request

KIND, COUNT, CERTIFICATE, *URLS = sys.argv[1:]
COUNT = int(COUNT)
CLOSE = {"Connection": "close"}
context = ssl.create_default_context(cafile=CERTIFICATE)
answered = failed = 0


def attempt(request):
    global answered, failed
    try:
        body = request()
        assert body
        answered += 1
    except Exception as error:
        failed += 1
        print(KIND, repr(error), file=sys.stderr)


def with_urllib(url):
    for _ in range(COUNT):
        attempt(lambda: urllib.request.urlopen(url, context=context).read())


def with_http_client(url):
    parts = urllib.parse.urlsplit(url)
    def connect():
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.netloc, context=context)
        return http.client.HTTPConnection(parts.netloc)
    def ask(connection, headers):
        connection.request("GET", parts.path, headers=headers)
        return connection.getresponse().read()
    kept = connect()
    for _ in range(COUNT):
        attempt(lambda: ask(kept, {}))
        attempt(lambda: ask(connect(), CLOSE))
    kept.close()


def with_requests(url):
    import requests
    with requests.Session() as session:
        for _ in range(COUNT):
            attempt(lambda: session.get(url, verify=CERTIFICATE).content)
            attempt(lambda: requests.get(url, verify=CERTIFICATE).content)
            attempt(lambda: requests.get(url, verify=CERTIFICATE, headers=CLOSE).content)


async def with_aiohttp(url):
    global answered, failed
    import aiohttp
    async def ask(session, headers):
        global answered, failed
        try:
            async with session.get(url, ssl=context, headers=headers) as answer:
                assert await answer.read()
            answered += 1
        except Exception as error:
            failed += 1
            print(KIND, repr(error), file=sys.stderr)
    for headers in ({}, CLOSE):
        async with aiohttp.ClientSession() as session:
            for _ in range(0, COUNT, 5):
                await asyncio.gather(*(ask(session, headers) for _ in range(5)))


for url in URLS:
    match KIND:
        case "urllib":
            with_urllib(url)
        case "http.client":
            with_http_client(url)
        case "requests":
            with_requests(url)
        case "aiohttp":
            asyncio.run(with_aiohttp(url))
print(answered, failed)
