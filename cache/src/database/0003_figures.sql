-- Which ends of metrics are figures of the whole execution. Where there is one, `last` is it.
ALTER TABLE metric_ends ADD COLUMN figure INTEGER NOT NULL DEFAULT 0;  -- 1 if `last` is a figure of the whole execution
UPDATE metric_ends SET figure = 1, last = (
  SELECT value FROM metric_points AS p
  WHERE p.execution = metric_ends.execution AND p.name = metric_ends.name AND p.step = -1
) WHERE EXISTS (
  SELECT 1 FROM metric_points AS p
  WHERE p.execution = metric_ends.execution AND p.name = metric_ends.name AND p.step = -1
);

DROP VIEW metric_summaries;
CREATE VIEW metric_summaries AS
  -- One row for each metric of an execution: its figure for the whole execution (else the value of its last step) as
  -- last, the lowest, the highest, NaN left out. figure is 1 if last is of the whole execution.
  SELECT execution, text AS name, points, last, lowest, highest, figure FROM metric_ends JOIN names USING (name);
