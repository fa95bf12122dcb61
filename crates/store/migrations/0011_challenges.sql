-- Zones of public DNS that a server answers for, as it said, with spaces between them.
ALTER TABLE nodes ADD COLUMN zones TEXT;

-- What public DNS answers at _acme-challenge.<host>, until it ends.
CREATE TABLE dns_challenges (
    host TEXT NOT NULL,
    value TEXT NOT NULL,
    ends_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (host, value)
) STRICT;
CREATE INDEX dns_challenges_by_end ON dns_challenges (ends_at);

-- The write of control's rows by which the app that had the address is without it. Unknown until it is
-- published.
ALTER TABLE resting_addresses ADD COLUMN app TEXT;
ALTER TABLE resting_addresses ADD COLUMN gone_epoch INTEGER;
ALTER TABLE resting_addresses ADD COLUMN gone_sequence INTEGER;
