-- Where the net processes of servers talk to each other: a TCP port beside the mesh's UDP port.
ALTER TABLE nodes ADD COLUMN mesh_rpc_port INTEGER;
