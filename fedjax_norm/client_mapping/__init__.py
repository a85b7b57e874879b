"""Runs a pure per-client function for all clients on all devices: vmap, scan, pmap or shard_map."""

from fedjax_norm.client_mapping.choose_backend import BACKENDS, create, fitting
from fedjax_norm.client_mapping.devices import device_memory, use_host_devices
from fedjax_norm.client_mapping.mapping import CLIENTS, DEVICES, ClientFn, ClientMapping

__all__ = [
  "BACKENDS",
  "CLIENTS",
  "DEVICES",
  "ClientFn",
  "ClientMapping",
  "create",
  "device_memory",
  "fitting",
  "use_host_devices",
]
