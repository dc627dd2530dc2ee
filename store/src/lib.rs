//! Every byte on disk: log, inbox, hot tail, sealer, Delta table, sidecars, snapshot
