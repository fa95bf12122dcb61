-- A server's end of the mesh, as the server said: its WireGuard key and the UDP port it listens on.
ALTER TABLE nodes ADD COLUMN mesh_key TEXT;
ALTER TABLE nodes ADD COLUMN mesh_port INTEGER;
CREATE UNIQUE INDEX nodes_by_mesh_key ON nodes (mesh_key);
