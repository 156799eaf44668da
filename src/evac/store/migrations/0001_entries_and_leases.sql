-- revision: number of the last transaction; one counter for entries and fencing tokens, so that neither falls.
-- It begins at 1, the token of orders given before any controller has led.
CREATE TABLE state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL
);

INSERT INTO state VALUES (1, 1);

-- lease: token of the lease that the key ends with, 0 for none. crc: CRC-32 of the value; disks lie.
CREATE TABLE entry (
    key TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    value BLOB NOT NULL
);

CREATE INDEX entry_of_lease ON entry (lease) WHERE lease <> 0;

-- Leases that are held. begins_ms and ends_ms are on the host's clock since the boot named.
CREATE TABLE lease (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    token INTEGER NOT NULL,
    id TEXT NOT NULL,
    ttl_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    begins_ms INTEGER NOT NULL,
    ends_ms INTEGER NOT NULL
);
