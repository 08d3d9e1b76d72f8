-- +goose Up

-- What the owner of a node's policies decided beside the documents: an api.Assignment.
ALTER TABLE nodes ADD COLUMN assignment TEXT NOT NULL DEFAULT '{}';

-- Whether a root endorses TPM emulators.
ALTER TABLE roots ADD COLUMN emulated INTEGER NOT NULL DEFAULT 0;

-- Decisions to react to nodes of a cluster. They outlive their node: what was done to it is still to be undone.
CREATE TABLE reactions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    node     TEXT NOT NULL,
    owner    TEXT NOT NULL,
    cause    TEXT NOT NULL,
    state    TEXT NOT NULL,
    open     INTEGER NOT NULL,            -- 1 unless the state is an end
    document TEXT NOT NULL
);
CREATE UNIQUE INDEX reactions_node ON reactions (node) WHERE open = 1;
CREATE INDEX reactions_open ON reactions (open, id) WHERE open = 1;
CREATE INDEX reactions_owner ON reactions (owner, state, id) WHERE open = 1;

-- At most one row: the last word on whether all reactions are suspended.
CREATE TABLE suspension (
    ordinal  INTEGER PRIMARY KEY CHECK (ordinal = 1),
    document TEXT NOT NULL
);
