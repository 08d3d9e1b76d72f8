-- +goose Up

-- Which Kubernetes node is which agent's: one EK, one Node.
CREATE TABLE node_bindings (
    agent     TEXT PRIMARY KEY,
    node_name TEXT NOT NULL UNIQUE,
    node_uid  TEXT NOT NULL,
    at        BIGINT NOT NULL
);
