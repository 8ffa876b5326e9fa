CREATE TABLE imports (
  -- Executions that came from elsewhere (merge, pull, import) and not from a run on this store.
  record TEXT NOT NULL PRIMARY KEY,  -- -> executions.record
  trusted INTEGER NOT NULL        -- 1: taken as a result like our own; 0: only if someone we trust has signed it
) WITHOUT ROWID;
CREATE INDEX imports_untrusted ON imports (record) WHERE trusted = 0;

CREATE TABLE signatures (
  -- Who vouches for an execution.
  record TEXT NOT NULL,           -- -> executions.record
  signer TEXT NOT NULL,           -- public key, as `sepia key show` prints it
  signature TEXT NOT NULL,        -- ed25519, 128 hexadecimal digits
  PRIMARY KEY (record, signer)
) WITHOUT ROWID;
