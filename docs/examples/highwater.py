"""A client of Highwater in a few lines: it learns the interface by reflection, so nothing has to be generated.

Needs grpcio, grpcio-reflection and protobuf. Where stubs are preferred, generate them from proto/ and call the same
methods; nothing else here is special.
"""

import time

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SECONDS = 10
# Nothing was acknowledged, or it is not known: the same call, sent again, is harmless and right.
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class Highwater:
    """Calls any method; messages are dictionaries as in JSON: counts are strings, enums are their names."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def call(self, service, method, **request):
        descriptor = self.pool.FindServiceByName(f"highwater.v1.{service}").methods_by_name[method]
        invoke = self.channel.unary_unary(
            f"/highwater.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        answer = invoke(ParseDict(request, GetMessageClass(descriptor.input_type)()), timeout=SECONDS)
        return MessageToDict(answer, preserving_proto_field_name=True)

    def call_until_answered(self, service, method, **request):
        """The same again, for as long as the gateway or its stores are away."""
        while True:
            try:
                return self.call(service, method, **request)
            except grpc.RpcError as error:
                if error.code() not in AGAIN:
                    raise
                time.sleep(1)
