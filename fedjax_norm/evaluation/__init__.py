"""What is measured: accuracy, errors, segmentation, verification, diagnostics, leakage."""
