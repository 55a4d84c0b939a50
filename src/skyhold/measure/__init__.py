"""What is measured: the catalogue of metrics."""
