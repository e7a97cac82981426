#!/usr/bin/env bash
# One would guess: an error's text does not change its status code: a server that aborts a call with INVALID_ARGUMENT and
# a long text (a list of the faulty fields, a traceback) gives the client INVALID_ARGUMENT, whole or cut.
# What happens (grpcio 1.85.1): the text travels as a header, and from about 8 KB on the client drops the header and
# reports RESOURCE_EXHAUSTED with a text of its own, between 8 and 16 KB at random. A code that means "never try again"
# so becomes one that clients back off and retry on. A text outside ASCII reaches the limit at a third of its size and
# less, because each byte is escaped to three; the same text in the body of an answer may have 4 MB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check grpcio==1.85.1
cat > probe.py <<'P'
import asyncio
import collections

import grpc

TRIES = 40


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.fail)

    async def fail(self, message, context):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message.decode())


async def codes(call, text):
    counts = collections.Counter()
    for _ in range(TRIES):
        try:
            await call(text.encode())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                assert error.details() == text
            counts[error.code().name] += 1
    return dict(counts)


async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Service(),))
    server.add_insecure_port("unix:probe.sock")
    await server.start()
    async with grpc.aio.insecure_channel("unix:probe.sock") as channel:
        call = channel.unary_unary("/test/Fail")
        seen = {}
        for letter, length in (("x", 4000), ("x", 12_000), ("x", 20_000), ("é", 1000), ("é", 4000)):
            seen[letter, length] = await codes(call, letter * length)
            print(f"abort(INVALID_ARGUMENT, {letter!r} * {length}): the client gets", seen[letter, length])
    await server.stop(0)
    assert seen["x", 4000] == seen["é", 1000] == {"INVALID_ARGUMENT": TRIES}
    assert seen["x", 20_000] == seen["é", 4000] == {"RESOURCE_EXHAUSTED": TRIES}
    assert seen["x", 12_000].get("RESOURCE_EXHAUSTED", 0) > 0


print("grpcio", grpc.__version__)
asyncio.run(main())
P
venv/bin/python probe.py
