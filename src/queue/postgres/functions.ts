/** A burst that never ends must not hold its first event for ever: this many times `settle` is the most. */
const longestSettle = 10

/**
 * To plan these statements takes longer than to run them: each is planned once in a connection, perhaps while the tables
 * are empty, for when they are not. Their indexes are made for them; a LIMIT of 1 makes the planner look up what it needs,
 * where it would read all that wait, which are few by then.
 */
const plannedOnce = 'LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off'

/**
 * What happens to deliveries, within Postgres: what would be several statements, each planned anew, is one.
 *
 * `told` is an array of objects; `given` the time, in tests, else NULL. Processes of an older version call them, too: what
 * a function takes and gives stays, or another gets another name. What changes here is added to the migrations again.
 */
export const functions = `
-- Always in the same order, so that nobody waits for somebody who waits for him.
CREATE OR REPLACE FUNCTION b24_receiver.lock_lanes(names text[]) RETURNS void ${plannedOnce} AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(number) FROM (
    SELECT DISTINCT hashtextextended(name, 24) AS number FROM unnest(names) AS name ORDER BY number
  ) AS lane;
END $$;

-- Of lanes without a head the first may go, when its object is quiet. Gives those that may run now.
CREATE OR REPLACE FUNCTION b24_receiver.promote(handlers text[], lanes text[], given bigint)
RETURNS TABLE (handler text, key bigint, job uuid, suspect boolean) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
BEGIN
  RETURN QUERY WITH next AS (
    SELECT first.key, CASE WHEN first.settle > 0 THEN
        least(newest.created_at + first.settle, first.created_at + ${longestSettle} * first.settle) END AS quiet_at
    FROM (SELECT DISTINCT handler, lane FROM unnest(handlers, lanes) AS one (handler, lane)) AS touched
    CROSS JOIN LATERAL (
      SELECT key, settle, created_at FROM b24_receiver.delivery
      WHERE handler = touched.handler AND lane = touched.lane AND state = 'blocked' ORDER BY key LIMIT 1
    ) AS first
    CROSS JOIN LATERAL (
      SELECT created_at FROM b24_receiver.delivery
      WHERE handler = touched.handler AND lane = touched.lane AND state = 'blocked' ORDER BY key DESC LIMIT 1
    ) AS newest
    LEFT JOIN LATERAL (
      SELECT key FROM b24_receiver.delivery
      WHERE handler = touched.handler AND lane = touched.lane AND state IN ('ready', 'running', 'waiting') LIMIT 1
    ) AS standing ON true
    WHERE standing.key IS NULL
  ),
  promoted AS (
    UPDATE b24_receiver.delivery AS head
    SET state = CASE WHEN quiet_at > now THEN 'waiting' ELSE 'ready' END,
      since = CASE WHEN quiet_at > now THEN now END,
      due = CASE WHEN quiet_at > now THEN quiet_at END,
      job = CASE WHEN quiet_at > now THEN NULL ELSE gen_random_uuid() END
    FROM next WHERE head.key = next.key
    RETURNING handler, head.key, job, suspect
  )
  SELECT * FROM promoted WHERE job IS NOT NULL;
END $$;

-- Keeps those that are not there yet. Gives those that may run now.
CREATE OR REPLACE FUNCTION b24_receiver.add_deliveries(told json, journal text, given bigint)
RETURNS TABLE (handler text, key bigint, job uuid, suspect boolean) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
  handlers text[];
  lanes text[];
  lane text;
BEGIN
  PERFORM b24_receiver.lock_lanes(array_agg(handler || ' ' || lane))
  FROM json_to_recordset(told) AS new (handler text, lane text);
  FOR handler, lane, key, job, suspect IN
    INSERT INTO b24_receiver.delivery
      (event_id, handler, run, lane, name, event, receiver, segment, settle, created_at, state, since, due, job)
    SELECT id, handler, run, lane, name, event, journal, segment, settle, now,
      CASE WHEN lane IS NOT NULL THEN 'blocked' WHEN settle > 0 THEN 'waiting' ELSE 'ready' END,
      CASE WHEN lane IS NULL AND settle > 0 THEN now END,
      CASE WHEN lane IS NULL AND settle > 0 THEN now + settle END,
      CASE WHEN lane IS NULL AND settle = 0 THEN gen_random_uuid() END
    FROM ROWS FROM (json_to_recordset(told) AS
      (id text, handler text, run integer, lane text, name text, event text, segment bigint, settle bigint))
      WITH ORDINALITY AS new (id, handler, run, lane, name, event, segment, settle, place)
    ORDER BY place
    ON CONFLICT (event_id, handler, run) DO NOTHING
    RETURNING handler, lane, key, job, suspect
  LOOP
    IF lane IS NOT NULL THEN
      handlers := array_append(handlers, handler);
      lanes := array_append(lanes, lane);
    ELSIF job IS NOT NULL THEN
      RETURN NEXT;
    END IF;
  END LOOP;
  -- A head that waits for quiet waits anew. It is told by its time: by its state the planner would read all that wait.
  UPDATE b24_receiver.delivery AS head
  SET since = now, due = least(now + settle, created_at + ${longestSettle} * settle)
  FROM (SELECT DISTINCT handler, lane FROM unnest(handlers, lanes) AS one (handler, lane)) AS touched
  CROSS JOIN LATERAL (
    SELECT key, due, state = 'waiting' AND attempts = 0 AND NOT postponed AS settles FROM b24_receiver.delivery
    WHERE handler = touched.handler AND lane = touched.lane AND state IN ('ready', 'running', 'waiting') LIMIT 1
  ) AS standing
  WHERE standing.settles AND head.key = standing.key AND head.due = standing.due;
  RETURN QUERY SELECT * FROM b24_receiver.promote(handlers, lanes, given);
END $$;

-- How many of which handler may run now, were the oldest taken; whether something waits no longer; who is the first suspect.
CREATE OR REPLACE FUNCTION b24_receiver.plan_runs(told json, most integer, given bigint)
RETURNS TABLE (is_due boolean, suspect text, counts json) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
BEGIN
  RETURN QUERY WITH wanted AS (SELECT * FROM json_to_recordset(told) AS one (handler text, most integer)),
  ready AS (
    SELECT one.handler FROM wanted CROSS JOIN LATERAL (
      SELECT handler, key FROM b24_receiver.delivery
      WHERE state = 'ready' AND NOT suspect AND handler = wanted.handler ORDER BY key LIMIT wanted.most
    ) AS one ORDER BY one.key LIMIT plan_runs.most
  )
  SELECT
    coalesce((SELECT due FROM b24_receiver.delivery WHERE state = 'waiting' ORDER BY due LIMIT 1) <= now, false)
      OR coalesce((SELECT since FROM b24_receiver.delivery WHERE state = 'waiting' AND since IS NOT NULL
        ORDER BY since DESC LIMIT 1) > now, false),
    (SELECT handler FROM b24_receiver.delivery
      WHERE state = 'ready' AND suspect AND handler IN (SELECT handler FROM wanted) ORDER BY key LIMIT 1),
    (SELECT coalesce(json_agg(counted), '[]') FROM (
      SELECT handler, count(*)::integer AS count FROM ready GROUP BY handler) AS counted);
END $$;

-- Milliseconds until the first of those that wait is due.
CREATE OR REPLACE FUNCTION b24_receiver.next_due(given bigint) RETURNS bigint ${plannedOnce} AS $$
BEGIN
  RETURN (SELECT due FROM b24_receiver.delivery WHERE state = 'waiting' ORDER BY due LIMIT 1) - b24_receiver.at(given);
END $$;

-- Runs begin, of deliveries whose jobs were taken, or of those that they are one with: told is [{head, key, coalesced}].
CREATE OR REPLACE FUNCTION b24_receiver.start_runs(keys bigint[], jobs uuid[], told json, who text, given bigint)
RETURNS TABLE (key bigint, handler text, event text, attempts integer, coalesced integer, suspect boolean, job uuid,
  head bigint, age bigint) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
BEGIN
  RETURN QUERY UPDATE b24_receiver.delivery AS one
  SET state = 'running', worker = who, job = head.job, attempts = head.attempts + 1, suspect = head.suspect,
    coalesced = coalesce(merged.coalesced, one.coalesced), postponed = false,
    first_run_at = coalesce(one.first_run_at, now), since = NULL, due = NULL
  FROM unnest(keys, jobs) AS taken (head, job)
  JOIN b24_receiver.delivery AS head
    ON head.key = taken.head AND head.job = taken.job AND head.state IN ('ready', 'coalesced')
  LEFT JOIN json_to_recordset(told) AS merged (head bigint, key bigint, coalesced integer) ON merged.head = head.key
  WHERE one.key = coalesce(merged.key, head.key)
  RETURNING one.key, one.handler, one.event, one.attempts, one.coalesced, one.suspect, one.job,
    head.key, now - one.first_run_at;
END $$;

-- Runs end, where they are still ours: told is [{key, job, handler, lane, how, delay, alone, error, attempt}]. Gives each of
-- them as ended, and those that may run now, which have a job.
CREATE OR REPLACE FUNCTION b24_receiver.end_runs(told json, who text, given bigint)
RETURNS TABLE (ended boolean, handler text, key bigint, job uuid, suspect boolean) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
  handlers text[];
  lanes text[];
  lane text;
  how text;
BEGIN
  PERFORM b24_receiver.lock_lanes(array_agg(handler || ' ' || lane))
  FROM json_to_recordset(told) AS one (handler text, lane text, how text) WHERE how IN ('done', 'dead');
  ended := true;
  FOR handler, lane, key, job, suspect, how IN
    WITH ended AS (
      UPDATE b24_receiver.delivery AS one
      SET state = CASE how WHEN 'done' THEN 'done' WHEN 'dead' THEN 'dead' WHEN 'released' THEN 'ready' ELSE 'waiting' END,
        attempts = attempts - CASE WHEN how IN ('postponed', 'released') THEN 1 ELSE 0 END,
        suspect = CASE how WHEN 'postponed' THEN suspect ELSE alone END,
        postponed = how = 'postponed',
        first_run_at = CASE WHEN how <> 'postponed' THEN first_run_at END,
        since = CASE WHEN how IN ('retry', 'postponed') THEN now END,
        due = CASE WHEN how IN ('retry', 'postponed') THEN now + delay END,
        ended_at = CASE WHEN how IN ('done', 'dead') THEN now END,
        error = coalesce(run.error, one.error),
        event = CASE WHEN how <> 'done' THEN event END,
        job = CASE how WHEN 'released' THEN gen_random_uuid() END,
        worker = NULL
      FROM json_to_recordset(told)
        AS run (key bigint, job uuid, how text, delay bigint, alone boolean, error text, attempt integer)
      WHERE one.key = run.key AND one.job = run.job AND one.state = 'running' AND one.worker = who
      RETURNING handler, lane, one.key, one.job, suspect, how, run.error, attempt
    ),
    failed AS (
      INSERT INTO b24_receiver.failure (delivery, attempt, at, error)
      SELECT key, attempt, now, error FROM ended WHERE how IN ('retry', 'dead') AND error IS NOT NULL
    )
    SELECT handler, lane, key, job, suspect, how FROM ended
  LOOP
    RETURN NEXT;
    IF how IN ('done', 'dead') THEN
      handlers := array_append(handlers, handler);
      lanes := array_append(lanes, lane);
    END IF;
  END LOOP;
  RETURN QUERY SELECT false, * FROM b24_receiver.promote(handlers, lanes, given);
END $$;
`
