CREATE TABLE IF NOT EXISTS rounds (
    id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP, round INTEGER, verifier TEXT, score_threshold REAL,
    failed_closed INTEGER, seconds TEXT);
CREATE TABLE IF NOT EXISTS verdicts (
    round_id INTEGER REFERENCES rounds(id), node_id TEXT, verdict TEXT, accepted INTEGER, suspect INTEGER, score REAL,
    error REAL, threshold REAL, reason TEXT, banned INTEGER, notes TEXT);
CREATE TABLE IF NOT EXISTS strikes (node_id TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS bans (node_id TEXT PRIMARY KEY, round INTEGER, reason TEXT);
INSERT INTO rounds (round, verifier, score_threshold, failed_closed, seconds) VALUES (1, 'spotcheck', 2.0, 0, '{}');
INSERT INTO verdicts VALUES (1, '7001011', 'convicted', 0, 1, 9.0, 2.0, 0.05, 'differs', 1, '{"withheld": ""}');
INSERT INTO verdicts VALUES (1, '7001012', 'missing', 0, 1, 2.0, NULL, NULL, 'no answer', 0, '{}');
INSERT INTO strikes VALUES ('7001012', 1);
INSERT INTO bans VALUES ('7001011', 1, 'differs');
