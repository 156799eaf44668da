"""Is the site really gone? Probes and witness votes in, a pure verdict out."""
