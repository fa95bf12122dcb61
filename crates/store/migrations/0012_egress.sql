-- Which addresses lead back to a server, as it said, for machines to leave under: separated by spaces.
ALTER TABLE nodes ADD COLUMN egress_addresses TEXT;

-- Which app's machines leave under an address; which server has it is the server's to say. region: for which
-- it was asked.
CREATE TABLE egress_addresses (
    address TEXT PRIMARY KEY,
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    region TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX egress_addresses_by_app ON egress_addresses (app);
