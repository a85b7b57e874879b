"""Convolutions and pooling, in the form that runs fast on each kind of device."""
