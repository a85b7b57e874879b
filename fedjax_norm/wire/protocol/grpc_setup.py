"""Imports gRPC without its log, and defines the options that clients and servers share."""

import os

# gRPC reads the variable when it is imported. Otherwise it prints every failed handshake, in
# addition to this program's error.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

if os.environ["GRPC_VERBOSITY"] == "NONE":  # JAX contains another gRPC, which keeps its log
  del os.environ["GRPC_VERBOSITY"]

SERVICE = "fedjax_norm.Split"
_ALLOWANCE = 2**16  # added to gRPC's limit, so that this program reports large messages, not gRPC
_PING_MS = 20_000  # a connection closes after twice this silence; a busy process answers pings

_OPTIONS = (
  ("grpc.keepalive_time_ms", _PING_MS),
  ("grpc.keepalive_timeout_ms", _PING_MS),
  ("grpc.http2.ping_timeout_ms", _PING_MS),  # the default of a minute would take precedence
  ("grpc.keepalive_permit_without_calls", 1),
  ("grpc.http2.max_pings_without_data", 0),
  ("grpc.http2.min_ping_interval_without_data_ms", _PING_MS // 2),
)


def channel_options(limit: int) -> list[tuple[str, int]]:
  """Returns gRPC options for messages of at most ``limit`` bytes, with keep-alive pings."""
  size = limit + _ALLOWANCE
  limits = [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
  return [*limits, *_OPTIONS]


__all__ = ["SERVICE", "channel_options", "grpc"]
