-- +goose Up

-- The boot that a node is in, taken from its state, and the boots before it: their evidence may go some time after they ended.
ALTER TABLE nodes ADD COLUMN boot TEXT NOT NULL DEFAULT '';
UPDATE nodes SET boot = coalesce(json_extract(state, '$.boot'), '');

CREATE TABLE ended_boots (
    node  TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    boot  TEXT NOT NULL,
    ended BIGINT NOT NULL,
    PRIMARY KEY (node, boot)
);
CREATE INDEX ended_boots_ended ON ended_boots (ended);

-- Of what was stored before, it is known that it ended when the current boot began, or earlier.
INSERT INTO ended_boots (node, boot, ended)
    SELECT e.node, e.boot, CAST(strftime('%s', json_extract(n.state, '$.bootSince')) AS INTEGER) * 1000000000
    FROM (SELECT node, boot FROM list_parts UNION SELECT node, boot FROM boot_logs UNION SELECT node, boot FROM quotes) e
    JOIN nodes n ON n.id = e.node
    WHERE n.boot <> '' AND e.boot <> n.boot AND strftime('%s', json_extract(n.state, '$.bootSince')) IS NOT NULL;
