"""The methods that this server serves, read from the contract's descriptors, and how servicers are registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import status_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """What the chain needs to know of one RPC, computed once."""

    full_name: str
    service: str
    name: str
    client_streaming: bool
    server_streaming: bool
    infrastructure: bool = False
    has_request_id: bool = False
    error_response: Callable[[status_pb2.Status], message.Message] | None = None


def methods_of(services: Iterable[ServiceDescriptor]) -> dict[str, Method]:
    """Returns the methods of services, keyed by full name (``/package.Service/Method``)."""
    found = (_method(service, method) for service in services for method in service.methods)
    return {method.full_name: method for method in found}


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    return Method(
        full_name=f"/{service.full_name}/{method.name}",
        service=service.full_name,
        name=method.name,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        has_request_id="request_id" in method.input_type.fields_by_name,
        error_response=_error_response(method) if method.server_streaming else None,
    )


def _error_response(method: MethodDescriptor) -> Callable[[status_pb2.Status], message.Message] | None:
    """Streams say over JSON what ended them in a last message with ``error``: HTTP/1 has no status after the body."""
    if "error" not in method.output_type.fields_by_name:
        return None
    response_class = message_factory.GetMessageClass(method.output_type)
    return lambda status: response_class(error=status)


def infrastructure_method(full_name: str, client_streaming: bool, server_streaming: bool) -> Method:
    """Returns a method of the health or reflection service, which are no part of our contract."""
    service, _, name = full_name.lstrip("/").partition("/")
    return Method(full_name, service, name, client_streaming, server_streaming, infrastructure=True)


def encode(response: message.Message | bytes) -> bytes:
    """Serializes a response; handlers may give ready bytes instead of a message."""
    return response if type(response) is bytes else response.SerializeToString()  # type: ignore[union-attr]


def add_service(server: grpc.aio.Server, service: ServiceDescriptor, servicer: Any) -> None:
    """Registers a servicer that has one coroutine or async generator for each method of the service.

    As the generated ``add_…Servicer_to_server`` does, but a response may also be ready bytes.
    """
    handlers = {}
    for method in service.methods:
        shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        request_class = message_factory.GetMessageClass(method.input_type)
        handlers[method.name] = make(
            getattr(servicer, method.name),
            request_deserializer=request_class.FromString,
            response_serializer=encode,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
