-- Where a server is found, as it said: its WireGuard key and UDP port in the mesh, and the addresses at
-- which users reach its edge, with spaces between them.
ALTER TABLE nodes ADD COLUMN public_addresses TEXT;
ALTER TABLE nodes ADD COLUMN mesh_key TEXT;
ALTER TABLE nodes ADD COLUMN mesh_port INTEGER;
CREATE UNIQUE INDEX nodes_by_mesh_key ON nodes (mesh_key);
