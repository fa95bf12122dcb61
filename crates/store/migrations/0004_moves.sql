-- Machines on their way to another node: made again there, then, if the old one is still in place,
-- destroyed there. successor equals machine when the old node is lost and the same machine is made again.
CREATE TABLE moves (
    machine TEXT PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    successor TEXT NOT NULL,
    node TEXT NOT NULL,
    executor TEXT NOT NULL,
    leased_until INTEGER NOT NULL,
    failed TEXT,
    retry_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX moves_by_app ON moves (app);
