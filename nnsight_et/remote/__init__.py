"""Work done on an NDIF server: few jobs, each of them journaled before it is waited for, and none lost."""
