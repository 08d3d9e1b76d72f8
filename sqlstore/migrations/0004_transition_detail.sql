-- +goose Up

-- What a transition says beyond its cause: the keys of a reimage.
ALTER TABLE transitions ADD COLUMN detail TEXT NOT NULL DEFAULT '';
