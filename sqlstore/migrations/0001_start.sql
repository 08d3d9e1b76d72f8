-- +goose Up

-- Times are nanoseconds since 1970 in UTC, 0 is no time. Digests are "sha256:hex". Documents are JSON.

-- What the registrar knows of an agent id; the columns beside the document are taken from it, for searching.
CREATE TABLE registrations (
    id         TEXT PRIMARY KEY,
    ek         TEXT UNIQUE,               -- NULL until an activation has proven it
    active     INTEGER NOT NULL,
    waiting    INTEGER NOT NULL,
    unendorsed INTEGER NOT NULL,
    expires    BIGINT NOT NULL,           -- the first end of a challenge or an approval; 0 without one
    document   TEXT NOT NULL
);
CREATE INDEX registrations_active ON registrations (id) WHERE active = 1;
CREATE INDEX registrations_waiting ON registrations (id) WHERE waiting = 1;
CREATE INDEX registrations_unproven ON registrations (id) WHERE active = 0 AND waiting = 0;
CREATE INDEX registrations_unendorsed ON registrations (id) WHERE unendorsed = 1;
CREATE INDEX registrations_expires ON registrations (expires) WHERE expires <> 0;

CREATE TABLE policies (
    ordinal  INTEGER PRIMARY KEY AUTOINCREMENT,
    digest   TEXT NOT NULL UNIQUE,
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    added    BIGINT NOT NULL,
    size     BIGINT NOT NULL,
    document BLOB NOT NULL
);
CREATE INDEX policies_name ON policies (name, ordinal);

CREATE TABLE nodes (
    id             TEXT PRIMARY KEY,
    version        BIGINT NOT NULL,       -- counts the writes of the row
    round_interval BIGINT NOT NULL,       -- nanoseconds
    enrolment      TEXT NOT NULL,
    state          TEXT NOT NULL,
    last_quote     TEXT NOT NULL          -- '' without one
);

CREATE TABLE node_policies (
    node    TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    policy  TEXT NOT NULL REFERENCES policies (digest),
    PRIMARY KEY (node, ordinal)
);
CREATE INDEX node_policies_policy ON node_policies (policy);

CREATE TABLE transitions (
    node         TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    seq          BIGINT NOT NULL,
    at           BIGINT NOT NULL,
    from_verdict TEXT NOT NULL,
    to_verdict   TEXT NOT NULL,
    boot         TEXT NOT NULL,
    cause        TEXT NOT NULL,
    quote        TEXT NOT NULL,
    policies     TEXT NOT NULL,
    failures     TEXT NOT NULL,
    PRIMARY KEY (node, seq)
);
CREATE INDEX transitions_quote ON transitions (node, quote);

CREATE TABLE quotes (
    node     TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    digest   TEXT NOT NULL,
    boot     TEXT NOT NULL,
    at       BIGINT NOT NULL,
    nonce    TEXT NOT NULL,
    packed   TEXT NOT NULL,
    bank     INTEGER NOT NULL,
    mask     BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (node, digest)
);

-- Evidence by content: machines with the same firmware share one event log.
CREATE TABLE contents (
    digest TEXT PRIMARY KEY,
    bytes  BLOB NOT NULL
);

CREATE TABLE list_parts (
    node        TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    boot        TEXT NOT NULL,
    first_entry BIGINT NOT NULL,
    entries     BIGINT NOT NULL,
    content     TEXT NOT NULL REFERENCES contents (digest),
    PRIMARY KEY (node, boot, first_entry)
);
CREATE INDEX list_parts_content ON list_parts (content);

CREATE TABLE boot_logs (
    node    TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    boot    TEXT NOT NULL,
    content TEXT NOT NULL REFERENCES contents (digest),
    PRIMARY KEY (node, boot)
);
CREATE INDEX boot_logs_content ON boot_logs (content);

CREATE TABLE roots (
    fingerprint TEXT PRIMARY KEY,
    subject     TEXT NOT NULL,
    not_after   BIGINT NOT NULL,
    pem         BLOB NOT NULL,
    added       BIGINT NOT NULL,
    origin      TEXT NOT NULL
);

CREATE TABLE tokens (
    id            TEXT PRIMARY KEY,
    created       BIGINT NOT NULL,
    expires       BIGINT NOT NULL,
    agent         TEXT NOT NULL,          -- '' until it is redeemed
    secret_digest TEXT NOT NULL
);
