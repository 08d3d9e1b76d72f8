-- +goose Up

-- The address that an unproven registration was first asked from; '' for every other one. What was stored before says none, and expires in minutes.
ALTER TABLE registrations ADD COLUMN source TEXT NOT NULL DEFAULT '';
DROP INDEX registrations_unproven;
CREATE INDEX registrations_unproven ON registrations (source, expires) WHERE active = 0 AND waiting = 0;
