#!/usr/bin/env bash
# One would guess: `asyncio.wait_for(call.write(message), timeout)` on a client's stream of grpc.aio gives up on that one
# message when the server is slow to read; the stream stays usable, as it does when a wait for a queue or a lock times
# out, and the program can try again later.
# What happens (grpcio 1.85.1): cancelling the write cancels the whole call. The server's handler gets CancelledError,
# the messages that were accepted before are of no use, since there will be no answer, and the next write raises
# InvalidStateError. The same holds for a cancelled read of a stream of answers. To wait with a limit, shield the write
# (asyncio.wait on its task) and await the same task again: nothing is lost then.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check grpcio==1.85.1
cat > probe.py <<'P'
import asyncio

import grpc

MESSAGE = bytes(65_536)
ended = []


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test/Count":
            return grpc.stream_unary_rpc_method_handler(self.count)
        return grpc.unary_stream_rpc_method_handler(self.tick)

    async def count(self, messages, context):
        try:
            await asyncio.sleep(1)  # as a server that is slow to read
            received = 0
            async for _ in messages:
                received += 1
            ended.append("answered")
            return str(received).encode()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def tick(self, message, context):
        for number in range(3):
            await asyncio.sleep(0.5)
            yield str(number).encode()


async def write_until_one_waits(call):
    """Returns the number of messages that were accepted, and the task of the one that waits."""
    accepted = 0
    while True:
        task = asyncio.ensure_future(call.write(MESSAGE))
        done, _ = await asyncio.wait([task], timeout=0.3)
        if not done:
            return accepted, task
        accepted += 1


async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Service(),))
    server.add_insecure_port("unix:probe.sock")
    await server.start()
    async with grpc.aio.insecure_channel("unix:probe.sock") as channel:
        call = channel.stream_unary("/test/Count")()
        accepted, task = await write_until_one_waits(call)
        await task
        await call.done_writing()
        answer = int(await call)
        print(f"shielded write: {accepted} messages and one that waited; the server received {answer}")
        assert answer == accepted + 1 and ended == ["answered"]

        call = channel.stream_unary("/test/Count")()
        accepted, task = await write_until_one_waits(call)
        try:
            await asyncio.wait_for(task, 0.1)
        except TimeoutError:
            print(f"timed out write: after {accepted} messages; the call is cancelled: {call.cancelled()}")
        assert call.cancelled()
        try:
            await call.write(MESSAGE)
        except asyncio.InvalidStateError as error:
            print("the next write:", type(error).__name__, error)
        else:
            raise AssertionError("the stream can still be written")
        await asyncio.sleep(1.2)
        print("the server's handler:", ended[1])
        assert ended == ["answered", "cancelled"]

        call = channel.unary_stream("/test/Tick")(b"")
        try:
            await asyncio.wait_for(call.read(), 0.1)
        except TimeoutError:
            print("timed out read: the call is cancelled:", call.cancelled())
        assert call.cancelled()
    await server.stop(0)


print("grpcio", grpc.__version__)
asyncio.run(main())
P
venv/bin/python probe.py
