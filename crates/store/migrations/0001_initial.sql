-- Times are Unix milliseconds. Flags are 0 or 1. JSON is text.

-- What the platform knows about itself: instance id, CA metadata.
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

-- Numbers that only grow: numeric ids, network ids.
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

CREATE TABLE organizations (
    slug TEXT PRIMARY KEY,
    numeric_id INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- An id belongs to its organization and name for ever. next_address numbers machines' addresses.
CREATE TABLE networks (
    id INTEGER PRIMARY KEY,
    org TEXT NOT NULL REFERENCES organizations (slug),
    name TEXT NOT NULL,
    next_address INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (org, name)
) STRICT;

CREATE TABLE apps (
    id TEXT PRIMARY KEY,
    numeric_id INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    org TEXT NOT NULL REFERENCES organizations (slug),
    network INTEGER NOT NULL REFERENCES networks (id),
    status TEXT NOT NULL,
    primary_region TEXT,
    regions TEXT NOT NULL,
    idempotency_key TEXT,
    secrets_version INTEGER NOT NULL,
    last_release INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (org, idempotency_key)
) STRICT;

-- Where machines live. phase is the record's own state, state what the worker last said.
CREATE TABLE machines (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    idempotency_key TEXT,
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    process_group TEXT NOT NULL,
    phase TEXT NOT NULL,
    version TEXT NOT NULL,
    config TEXT NOT NULL,
    image TEXT,
    release_version INTEGER,
    secrets_version INTEGER NOT NULL,
    intended_version TEXT,
    intended_config TEXT,
    intended_image TEXT,
    intended_release INTEGER,
    intended_secrets INTEGER,
    private_ip TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    observed_epoch INTEGER NOT NULL,
    observed_sequence INTEGER NOT NULL,
    cordoned INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (app, idempotency_key)
) STRICT;
CREATE UNIQUE INDEX machines_live_name ON machines (app, name) WHERE phase <> 'destroyed';
CREATE INDEX machines_by_node ON machines (node);

CREATE TABLE releases (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    status TEXT NOT NULL,
    image_ref TEXT NOT NULL,
    image_digest TEXT NOT NULL,
    manifest TEXT NOT NULL,
    definition TEXT NOT NULL,
    machine_configs TEXT NOT NULL,
    secrets_version INTEGER NOT NULL,
    strategy TEXT NOT NULL,
    description TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (app, version)
) STRICT;
CREATE UNIQUE INDEX releases_running ON releases (app) WHERE status = 'running';

-- A deploy is the execution of a release. fence grows with every owner, generation with every plan.
CREATE TABLE deploys (
    release TEXT PRIMARY KEY REFERENCES releases (id) ON DELETE CASCADE,
    plan TEXT,
    generation INTEGER NOT NULL,
    executor TEXT,
    fence INTEGER NOT NULL,
    leased_until INTEGER NOT NULL,
    last_event INTEGER NOT NULL,
    done INTEGER NOT NULL
) STRICT;

CREATE TABLE deploy_outcomes (
    release TEXT NOT NULL REFERENCES deploys (release) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    step INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (release, generation, step)
) STRICT;

CREATE TABLE deploy_events (
    release TEXT NOT NULL REFERENCES deploys (release) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    event TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (release, number)
) STRICT;

-- Every value a secret ever had until pruned, so that a release can be returned to as a whole.
-- No value: deleted in this version.
CREATE TABLE secrets (
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    sealed BLOB,
    digest TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (app, name, version)
) STRICT;

CREATE TABLE scales (
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    process_group TEXT NOT NULL,
    region TEXT NOT NULL,
    machine_count INTEGER NOT NULL,
    PRIMARY KEY (app, process_group, region)
) STRICT;

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    org TEXT REFERENCES organizations (slug),
    app TEXT REFERENCES apps (id) ON DELETE CASCADE,
    region TEXT,
    node TEXT,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    used_at INTEGER,
    used_by TEXT
) STRICT;

-- Rows are never deleted: a name is never given to another server.
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    key_fingerprint TEXT NOT NULL,
    certificate_serial TEXT,
    certificate_expires_at INTEGER,
    backhaul TEXT,
    worker_rpc TEXT,
    cpus INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT
) STRICT;
