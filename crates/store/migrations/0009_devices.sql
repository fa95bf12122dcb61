-- Where users' devices enter at a server, as it said: its WireGuard key and UDP port for them, and the TCP
-- port of datagrams in WebSockets.
ALTER TABLE nodes ADD COLUMN gateway_key TEXT;
ALTER TABLE nodes ADD COLUMN gateway_port INTEGER;
ALTER TABLE nodes ADD COLUMN gateway_websocket_port INTEGER;

-- Users' devices: WireGuard peers, each in one private network. gateway: the server that lets it in.
CREATE TABLE devices (
    address TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES organizations (slug),
    name TEXT NOT NULL,
    network INTEGER NOT NULL REFERENCES networks (id),
    public_key TEXT NOT NULL,
    gateway TEXT NOT NULL REFERENCES nodes (name),
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX devices_by_name ON devices (org, name);
CREATE UNIQUE INDEX devices_by_key ON devices (public_key);
