-- +goose Up

-- EKs that a person's word accepts without a certificate.
CREATE TABLE listed_keys (
    ek       TEXT PRIMARY KEY,
    note     TEXT NOT NULL,
    added    BIGINT NOT NULL,
    added_by TEXT NOT NULL
);

-- Bundled certificates that a person does not believe.
CREATE TABLE distrusted_roots (
    fingerprint TEXT PRIMARY KEY,
    at          BIGINT NOT NULL
);
