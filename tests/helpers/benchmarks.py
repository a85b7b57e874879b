"""What the tests of the benchmarks share."""

MACHINE = {
  "date": "2026-01-01",
  "processor": "a processor",
  "threads": 2,
  "memory_gb": 16.0,
  "system": "Linux",
  "python": "3.11",
  "ceiling": {"platform": "cpu", "device": "cpu", "gflops": {"float32": 100.0}},
}
