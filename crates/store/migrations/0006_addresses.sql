-- What the operator gives to apps. host_routes: single addresses of it may be announced.
CREATE TABLE address_pools (
    prefix TEXT PRIMARY KEY,
    sharing TEXT NOT NULL,
    host_routes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Addresses by which apps are entered. Only a shared one may be several apps'. network: of a private one.
CREATE TABLE app_addresses (
    address TEXT NOT NULL,
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    host_route INTEGER NOT NULL,
    network INTEGER REFERENCES networks (id),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (address, app)
) STRICT;
CREATE UNIQUE INDEX app_addresses_alone ON app_addresses (address) WHERE kind <> 'shared';
CREATE INDEX app_addresses_by_app ON app_addresses (app);

-- Given back, and not yet anybody else's.
CREATE TABLE resting_addresses (
    address TEXT PRIMARY KEY,
    rests_until INTEGER NOT NULL
) STRICT;
