"""What the scripts here share: verdicts, printed as they fall, and figures of a store."""

import sqlite3


class Verdicts:
    def __init__(self):
        self.failed = []

    def judge(self, what, good, detail):
        print(self.verdict(what, good, detail), flush=True)

    def verdict(self, what, good, detail):
        """The line of a verdict, to be printed later."""
        if not good:
            self.failed.append(what)
        return f"{'ok' if good else 'FAILED':>8}  {what}: {detail}"

    def exit_status(self):
        """For sys.exit: what failed, or 0."""
        return f"failed: {', '.join(self.failed)}" if self.failed else 0


def metrics(store, name):
    """All values of a metric of the newest execution of `train`."""
    database = sqlite3.connect(f"file:{store}/results.db?mode=ro", uri=True)
    rows = database.execute(
        """SELECT value FROM metrics WHERE name = ? AND execution =
           (SELECT execution FROM executions WHERE node = 'train' ORDER BY started_at DESC LIMIT 1) ORDER BY step""",
        (name,),
    )
    return [value for (value,) in rows]
