"""What eomirror is measured with; dated results are in `bench/results`."""
