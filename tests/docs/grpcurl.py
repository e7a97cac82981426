"""Stands in for `grpcurl` where it is not installed: it takes the same arguments, and also uses the server's
reflection and JSON. `python -m tests.docs.grpcurl --help` lists the arguments that it knows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main() -> None:
    parser = argparse.ArgumentParser(prog="grpcurl", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true")
    parser.add_argument("-cacert")
    parser.add_argument("-H", dest="headers", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("-d", dest="data", default="{}", metavar="JSON", help="@: from standard input")
    parser.add_argument("-max-time", dest="max_time", type=float, default=60)
    parser.add_argument("address")
    parser.add_argument("method", help="list, describe, or SERVICE/METHOD")
    parser.add_argument("symbol", nargs="?")
    arguments = parser.parse_args()
    with _channel(arguments) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        if arguments.method == "list" and arguments.symbol is None:
            print("\n".join(sorted(database.get_services())))
        elif arguments.method == "list":
            service = pool.FindServiceByName(arguments.symbol)
            print("\n".join(sorted(method.full_name for method in service.methods)))
        elif arguments.method == "describe":
            print(_described(pool, arguments.symbol))
        else:
            service, _, name = arguments.method.rpartition("/")
            method = pool.FindServiceByName(service).methods_by_name[name]
            for answer in _call(channel, method, arguments):
                print(json_format.MessageToJson(answer, preserving_proto_field_name=True, descriptor_pool=pool))


def _channel(arguments: argparse.Namespace) -> grpc.Channel:
    if arguments.plaintext:
        return grpc.insecure_channel(arguments.address)
    with open(arguments.cacert, "rb") as file:
        return grpc.secure_channel(arguments.address, grpc.ssl_channel_credentials(file.read()))


def _described(pool: DescriptorPool, symbol: str) -> str:
    try:
        return "\n".join(field.name for field in pool.FindMessageTypeByName(symbol).fields)
    except KeyError:
        return "\n".join(method.name for method in pool.FindServiceByName(symbol).methods)


def _call(channel: grpc.Channel, method: MethodDescriptor, arguments: argparse.Namespace) -> Iterator[Any]:
    request_class, answer_class = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    data = sys.stdin.read() if arguments.data == "@" else arguments.data
    request = json_format.Parse(data, request_class(), descriptor_pool=method.input_type.file.pool)
    sends, receives = method.client_streaming, method.server_streaming
    kind = f"{'stream' if sends else 'unary'}_{'stream' if receives else 'unary'}"
    call = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request_class.SerializeToString,
        response_deserializer=answer_class.FromString,
    )
    headers = [tuple(part.strip() for part in header.split(":", 1)) for header in arguments.headers]
    metadata = [(name.lower(), value) for name, value in headers]
    answer = call(iter([request]) if sends else request, timeout=arguments.max_time, metadata=metadata)
    yield from answer if receives else [answer]


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"ERROR:\n  Code: {error.code().name}\n  Message: {error.details()}")
