"""A small client of Highwater. It reads the interface by reflection, so no code has to be generated.

Requires grpcio, grpcio-reflection and protobuf. You can also generate stubs from proto/ and call the same methods.
"""

import time

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_SECONDS = 10
# With these codes nothing was acknowledged, or the outcome is unknown. All calls are idempotent, so retry them.
RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class Highwater:
    """Calls any method. Messages are dictionaries, as in JSON but with the field names of the proto files: counts are
    strings, enum values are names."""

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
        response = invoke(ParseDict(request, GetMessageClass(descriptor.input_type)()), timeout=TIMEOUT_SECONDS)
        return MessageToDict(response, preserving_proto_field_name=True)

    def call_until_answered(self, service, method, **request):
        """Like `call`, but retries while the gateway or its stores are unavailable."""
        while True:
            try:
                return self.call(service, method, **request)
            except grpc.RpcError as error:
                if error.code() not in RETRYABLE:
                    raise
                time.sleep(1)
