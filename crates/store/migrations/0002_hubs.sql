-- Several control processes: which are alive, and which edges each one answers for.
CREATE TABLE hubs (
    id TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL
) STRICT;

CREATE TABLE hub_edges (
    edge TEXT PRIMARY KEY,
    hub TEXT NOT NULL REFERENCES hubs (id) ON DELETE CASCADE,
    leased_until INTEGER NOT NULL
) STRICT;
