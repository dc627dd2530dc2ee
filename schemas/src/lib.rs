//! Record, keys, leaf, decoders: plain functions, no I/O
