"""What the tests of the binaries share."""

# Four classes that `tiny` learns in seconds.
SMALL = (
  "--data=synthetic:classes=4,train=64,test=32,size=6",
  "--clients=4",
  "--batch_size=8",
  "--rounds=4",
  "--eval_every=2",
  "--noprogress",
  "--host_devices=2",
)
