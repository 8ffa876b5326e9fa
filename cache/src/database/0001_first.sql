-- Sepia's results. Open it with `sqlite3 results.db`; `.schema` shows these comments.
-- Digests, keys and record ids are 64 hexadecimal digits; times are Unix milliseconds (UTC) unless a view says otherwise.
-- Numbers in columns named `execution` are of this file only; what identifies an execution everywhere is `record`.

CREATE TABLE runs (
  -- One row for each `sepia run`.
  run TEXT NOT NULL PRIMARY KEY,  -- its id
  plan TEXT,                      -- -> plans.plan: its nodes, with their keys as far as they became known
  manifest TEXT NOT NULL,         -- path of the manifest
  command TEXT NOT NULL,          -- the command line
  started_at INTEGER NOT NULL,
  finished_at INTEGER,            -- NULL while it goes on, and if it died
  outcome TEXT,                   -- done, failed, interrupted ...; died if it never said; NULL while it goes on
  nodes INTEGER NOT NULL,         -- how many nodes it had, of which ...
  cached INTEGER NOT NULL,        -- ... were taken from the store
  done INTEGER NOT NULL,          -- ... were computed
  failed INTEGER NOT NULL,        -- ... failed
  skipped INTEGER NOT NULL,       -- ... were not tried
  details TEXT NOT NULL           -- JSON: host, versions, manifest, options
) WITHOUT ROWID;
CREATE INDEX runs_by_time ON runs (started_at);
CREATE INDEX runs_unfinished ON runs (run) WHERE outcome IS NULL;

CREATE TABLE plans (
  -- A list of nodes with their keys. Many runs share one, so a run in which nothing changed costs one row.
  plan TEXT NOT NULL PRIMARY KEY, -- digest of the listing
  nodes INTEGER NOT NULL,         -- how many
  listing TEXT NOT NULL           -- JSON: [["node", "key or empty"], ...]
);

CREATE TABLE executions (
  -- One row for each finished attempt at a node, good or not.
  execution INTEGER NOT NULL PRIMARY KEY,
  record TEXT NOT NULL UNIQUE,    -- digest of the whole record: its name in every database
  key TEXT NOT NULL,              -- what it was computed from; equal keys should mean equal outputs
  run TEXT NOT NULL,              -- -> runs.run
  node TEXT NOT NULL,             -- its name in the manifest
  kind TEXT NOT NULL,             -- its stage kind ...
  stage_version INTEGER NOT NULL, -- ... and the version of that
  outcome TEXT NOT NULL,          -- done, failed, stopped, timed-out
  started_at INTEGER NOT NULL,
  wall_seconds REAL NOT NULL,
  cpu_seconds REAL NOT NULL,
  peak_memory_bytes INTEGER NOT NULL,
  seed,                           -- an integer; as text if it is above 2^63 - 1
  error TEXT                      -- what it said, if it did not end well
);
CREATE INDEX executions_by_key ON executions (key);
CREATE INDEX executions_by_node ON executions (node);
CREATE INDEX executions_by_run ON executions (run);

CREATE TABLE execution_details (
  -- The long parts of an execution, apart so that scans of executions stay short.
  execution INTEGER NOT NULL PRIMARY KEY,  -- -> executions.execution
  schema INTEGER NOT NULL,        -- version of the record
  key_inputs TEXT NOT NULL,       -- JSON: what the key was made of
  params TEXT NOT NULL,           -- JSON: all parameters
  provenance TEXT NOT NULL        -- JSON: host, versions, git state
);

CREATE TABLE artifacts (
  -- What executions left: bytes in objects/ (file) or trees/ (tree).
  execution INTEGER NOT NULL,     -- -> executions.execution
  port TEXT NOT NULL,
  digest TEXT NOT NULL,           -- of a file: what b3sum prints
  type TEXT NOT NULL,             -- file or tree
  bytes INTEGER NOT NULL,
  files INTEGER NOT NULL,
  PRIMARY KEY (execution, port)
) WITHOUT ROWID;
CREATE INDEX artifacts_by_digest ON artifacts (digest);

CREATE TABLE inputs (
  -- What executions read.
  execution INTEGER NOT NULL,     -- -> executions.execution
  port TEXT NOT NULL,
  position INTEGER NOT NULL,      -- its place, if the port takes several; else 0
  digest TEXT NOT NULL,           -- its content
  from_key TEXT,                  -- key of what made it; NULL for a file from outside
  PRIMARY KEY (execution, port, position)
) WITHOUT ROWID;
CREATE INDEX inputs_by_digest ON inputs (digest);

CREATE TABLE run_nodes (
  -- What became of the nodes of a run that were not simply taken from the store.
  run TEXT NOT NULL,              -- -> runs.run
  node TEXT NOT NULL,
  key TEXT,                       -- NULL if it never became known
  record TEXT,                    -- -> executions.record, if there was an attempt
  outcome TEXT NOT NULL,          -- done, failed, skipped, cancelled ...
  because TEXT,                   -- why it ran, or why not
  wall_seconds REAL,
  PRIMARY KEY (run, node)
) WITHOUT ROWID;

CREATE TABLE names (
  -- Names of parameters and metrics, numbered to keep the tables below small.
  name INTEGER NOT NULL PRIMARY KEY,
  text TEXT NOT NULL UNIQUE
);

CREATE TABLE param_values (
  -- See the view params.
  execution INTEGER NOT NULL,     -- -> executions.execution
  name INTEGER NOT NULL,          -- -> names.name
  value,                          -- number or text; true and false as text; lists as JSON
  PRIMARY KEY (execution, name)
) WITHOUT ROWID;
CREATE INDEX param_values_by_name ON param_values (name, value);

CREATE TABLE metric_points (
  -- See the view metrics.
  execution INTEGER NOT NULL,     -- -> executions.execution
  name INTEGER NOT NULL,          -- -> names.name
  step INTEGER NOT NULL,          -- -1 for a figure of the whole execution
  value REAL,                     -- NULL for NaN; infinities are kept
  PRIMARY KEY (execution, name, step)
) WITHOUT ROWID;

CREATE TABLE metric_ends (
  -- See the view metric_summaries.
  execution INTEGER NOT NULL,     -- -> executions.execution
  name INTEGER NOT NULL,          -- -> names.name
  points INTEGER NOT NULL,
  last REAL,                      -- the figure of the whole execution, else the value of the last step; NULL for NaN
  lowest REAL,
  highest REAL,
  figure INTEGER NOT NULL,        -- 1 if `last` is a figure of the whole execution
  PRIMARY KEY (execution, name)
) WITHOUT ROWID;

CREATE TABLE journals (
  -- How much of records/<run>.jsonl is in this database.
  run TEXT NOT NULL PRIMARY KEY,
  bytes INTEGER NOT NULL
) WITHOUT ROWID;

CREATE VIEW params AS
  -- Parameters by their dotted names: model.rank, lr.
  SELECT execution, text AS name, value FROM param_values JOIN names USING (name);

CREATE VIEW metrics AS
  -- Every measurement. step is NULL for a figure of the whole execution, value is NULL for NaN.
  SELECT execution, text AS name, nullif(step, -1) AS step, value FROM metric_points JOIN names USING (name);

CREATE VIEW metric_summaries AS
  -- One row for each metric of an execution: its figure for the whole execution (else the value of its last step) as
  -- last, the lowest, the highest, NaN left out. figure is 1 if last is of the whole execution.
  SELECT execution, text AS name, points, last, lowest, highest, figure FROM metric_ends JOIN names USING (name);

CREATE VIEW results AS
  -- Good executions with readable times.
  SELECT execution, node, kind, datetime(started_at / 1000, 'unixepoch') AS started, wall_seconds, seed, run, key, record
  FROM executions WHERE outcome = 'done';

CREATE VIEW divergences AS
  -- Keys whose good executions left different outputs: what should be reproducible and is not.
  SELECT e.key, a.port, count(DISTINCT a.digest) AS variants, count(*) AS executions
  FROM executions e JOIN artifacts a USING (execution)
  WHERE e.outcome = 'done' GROUP BY e.key, a.port HAVING variants > 1;
