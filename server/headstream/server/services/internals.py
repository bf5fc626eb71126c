"""InternalsService: part of the contract, not served here yet; GetModel says so."""

from __future__ import annotations

from headstream.v1 import internals_service_pb2_grpc


class InternalsService(internals_service_pb2_grpc.InternalsServiceServicer):
    """Every method is the generated one, which the interceptor answers with UNIMPLEMENTED."""
