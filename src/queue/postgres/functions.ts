import { maxDebounce } from '../coalesce.ts'

/**
 * Planning these statements takes longer than running them, so each connection plans each statement once. The tables
 * may be empty at that moment, so the plan must not depend on their size. The indexes are made for these statements. A
 * LIMIT of 1 makes the planner use an index, even if only few rows wait now; without it the plan reads all waiting
 * rows.
 */
const plannedOnce = 'LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off'

/**
 * All changes of deliveries, as functions in Postgres: one call replaces several statements that would each be planned
 * again.
 *
 * `input` is an array of objects. `given` is the time in tests, otherwise NULL. A change here needs a new version of the
 * schema, which drops these functions and runs all of this again.
 */
export const functions = `
-- A fixed lock order prevents deadlocks.
CREATE OR REPLACE FUNCTION b24_receiver.lock_ordering_keys(names text[]) RETURNS void ${plannedOnce} AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(number) FROM (
    SELECT DISTINCT hashtextextended(name, 24) AS number FROM unnest(names) AS name ORDER BY number
  ) AS ordering_key;
END $$;

-- Unblocks the first delivery of each ordering key without a head, once its object is quiet. Returns deliveries that
-- may run now.
CREATE OR REPLACE FUNCTION b24_receiver.promote(handlers text[], ordering_keys text[], given bigint)
RETURNS TABLE (handler text, key bigint, job uuid, quarantined boolean) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
BEGIN
  RETURN QUERY WITH next AS (
    SELECT first.key, CASE WHEN first.debounce > 0 THEN
        least(newest.created_at + first.debounce, first.created_at + ${maxDebounce} * first.debounce) END AS quiet_at
    FROM (SELECT DISTINCT handler, ordering_key FROM unnest(handlers, ordering_keys) AS one (handler, ordering_key)) AS touched
    CROSS JOIN LATERAL (
      SELECT key, debounce, created_at FROM b24_receiver.delivery
      WHERE handler = touched.handler AND ordering_key = touched.ordering_key AND state = 'blocked' ORDER BY key LIMIT 1
    ) AS first
    CROSS JOIN LATERAL (
      SELECT created_at FROM b24_receiver.delivery
      WHERE handler = touched.handler AND ordering_key = touched.ordering_key AND state = 'blocked' ORDER BY key DESC LIMIT 1
    ) AS newest
    LEFT JOIN LATERAL (
      SELECT key FROM b24_receiver.delivery
      WHERE handler = touched.handler AND ordering_key = touched.ordering_key AND state IN ('ready', 'running', 'waiting') LIMIT 1
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
    RETURNING handler, head.key, job, quarantined
  )
  SELECT * FROM promoted WHERE job IS NOT NULL;
END $$;

-- Adds new deliveries, and skips existing ones. Returns deliveries that may run now.
CREATE OR REPLACE FUNCTION b24_receiver.add_deliveries(input json, journal text, given bigint)
RETURNS TABLE (handler text, key bigint, job uuid, quarantined boolean) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
  handlers text[];
  ordering_keys text[];
  ordering_key text;
BEGIN
  PERFORM b24_receiver.lock_ordering_keys(array_agg(handler || ' ' || ordering_key))
  FROM json_to_recordset(input) AS new (handler text, ordering_key text);
  FOR handler, ordering_key, key, job, quarantined IN
    INSERT INTO b24_receiver.delivery
      (event_id, handler, run, ordering_key, name, event, receiver, segment, debounce, created_at, state, since, due, job)
    SELECT id, handler, run, ordering_key, name, event, journal, segment, debounce, now,
      CASE WHEN ordering_key IS NOT NULL THEN 'blocked' WHEN debounce > 0 THEN 'waiting' ELSE 'ready' END,
      CASE WHEN ordering_key IS NULL AND debounce > 0 THEN now END,
      CASE WHEN ordering_key IS NULL AND debounce > 0 THEN now + debounce END,
      CASE WHEN ordering_key IS NULL AND debounce = 0 THEN gen_random_uuid() END
    FROM ROWS FROM (json_to_recordset(input) AS
      (id text, handler text, run integer, ordering_key text, name text, event text, segment bigint, debounce bigint))
      WITH ORDINALITY AS new (id, handler, run, ordering_key, name, event, segment, debounce, place)
    ORDER BY place
    ON CONFLICT (event_id, handler, run) DO NOTHING
    RETURNING handler, ordering_key, key, job, quarantined
  LOOP
    IF ordering_key IS NOT NULL THEN
      handlers := array_append(handlers, handler);
      ordering_keys := array_append(ordering_keys, ordering_key);
    ELSIF job IS NOT NULL THEN
      RETURN NEXT;
    END IF;
  END LOOP;
  -- A head that waits for quiet waits again. It is matched by its due time: matched by its state, the planner would
  -- read all waiting rows.
  UPDATE b24_receiver.delivery AS head
  SET since = now, due = least(now + debounce, created_at + ${maxDebounce} * debounce)
  FROM (SELECT DISTINCT handler, ordering_key FROM unnest(handlers, ordering_keys) AS one (handler, ordering_key)) AS touched
  CROSS JOIN LATERAL (
    SELECT key, due, state = 'waiting' AND attempts = 0 AND NOT postponed AS is_debounced FROM b24_receiver.delivery
    WHERE handler = touched.handler AND ordering_key = touched.ordering_key AND state IN ('ready', 'running', 'waiting') LIMIT 1
  ) AS standing
  WHERE standing.is_debounced AND head.key = standing.key AND head.due = standing.due;
  RETURN QUERY SELECT * FROM b24_receiver.promote(handlers, ordering_keys, given);
END $$;

-- Returns how many deliveries of each handler may run now, the oldest first; whether a waiting delivery is due; and the
-- handler of the first quarantined delivery.
CREATE OR REPLACE FUNCTION b24_receiver.plan_runs(input json, max_count integer, given bigint)
RETURNS TABLE (is_due boolean, quarantined text, counts json) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
BEGIN
  RETURN QUERY WITH wanted AS (SELECT * FROM json_to_recordset(input) AS one (handler text, most integer)),
  ready AS (
    SELECT one.handler FROM wanted CROSS JOIN LATERAL (
      SELECT handler, key FROM b24_receiver.delivery
      WHERE state = 'ready' AND NOT quarantined AND handler = wanted.handler ORDER BY key LIMIT wanted.most
    ) AS one ORDER BY one.key LIMIT max_count
  )
  SELECT
    coalesce((SELECT due FROM b24_receiver.delivery WHERE state = 'waiting' ORDER BY due LIMIT 1) <= now, false)
      OR coalesce((SELECT since FROM b24_receiver.delivery WHERE state = 'waiting' AND since IS NOT NULL
        ORDER BY since DESC LIMIT 1) > now, false),
    (SELECT handler FROM b24_receiver.delivery
      WHERE state = 'ready' AND quarantined AND handler IN (SELECT handler FROM wanted) ORDER BY key LIMIT 1),
    (SELECT coalesce(json_agg(counted), '[]') FROM (
      SELECT handler, count(*)::integer AS count FROM ready GROUP BY handler) AS counted);
END $$;

-- Returns the milliseconds until the first waiting delivery is due.
CREATE OR REPLACE FUNCTION b24_receiver.next_due(given bigint) RETURNS bigint ${plannedOnce} AS $$
BEGIN
  RETURN (SELECT due FROM b24_receiver.delivery WHERE state = 'waiting' ORDER BY due LIMIT 1) - b24_receiver.at(given);
END $$;

-- Starts the runs of the deliveries whose jobs were taken, or of those that they were coalesced into. input is [{head,
-- key, coalesced}].
CREATE OR REPLACE FUNCTION b24_receiver.start_runs(keys bigint[], jobs uuid[], input json, who text, given bigint)
RETURNS TABLE (key bigint, handler text, event text, attempts integer, coalesced integer, quarantined boolean, job uuid,
  head bigint, age bigint) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
BEGIN
  RETURN QUERY UPDATE b24_receiver.delivery AS one
  SET state = 'running', worker = who, job = head.job, attempts = head.attempts + 1, quarantined = head.quarantined,
    coalesced = coalesce(merged.coalesced, one.coalesced), postponed = false,
    first_run_at = coalesce(one.first_run_at, now), since = NULL, due = NULL
  FROM unnest(keys, jobs) AS taken (head, job)
  JOIN b24_receiver.delivery AS head
    ON head.key = taken.head AND head.job = taken.job AND head.state IN ('ready', 'coalesced')
  LEFT JOIN json_to_recordset(input) AS merged (head bigint, key bigint, coalesced integer) ON merged.head = head.key
  WHERE one.key = coalesce(merged.key, head.key)
  RETURNING one.key, one.handler, one.event, one.attempts, one.coalesced, one.quarantined, one.job,
    head.key, now - one.first_run_at;
END $$;

-- Ends runs that are still ours. input is [{key, job, handler, ordering_key, how, delay, alone, error, attempt}].
-- Returns each ended run as ended, and the deliveries that may run now, which have a job.
CREATE OR REPLACE FUNCTION b24_receiver.end_runs(input json, who text, given bigint)
RETURNS TABLE (ended boolean, handler text, key bigint, job uuid, quarantined boolean) ${plannedOnce} AS $$
#variable_conflict use_column
DECLARE
  now bigint := b24_receiver.at(given);
  handlers text[];
  ordering_keys text[];
  ordering_key text;
  how text;
BEGIN
  PERFORM b24_receiver.lock_ordering_keys(array_agg(handler || ' ' || ordering_key))
  FROM json_to_recordset(input) AS one (handler text, ordering_key text, how text) WHERE how IN ('done', 'dead');
  ended := true;
  FOR handler, ordering_key, key, job, quarantined, how IN
    WITH ended AS (
      UPDATE b24_receiver.delivery AS one
      SET state = CASE how WHEN 'done' THEN 'done' WHEN 'dead' THEN 'dead' WHEN 'released' THEN 'ready' ELSE 'waiting' END,
        attempts = attempts - CASE WHEN how IN ('postponed', 'released') THEN 1 ELSE 0 END,
        quarantined = CASE how WHEN 'postponed' THEN quarantined ELSE alone END,
        postponed = how = 'postponed',
        first_run_at = CASE WHEN how <> 'postponed' THEN first_run_at END,
        since = CASE WHEN how IN ('retry', 'postponed') THEN now END,
        due = CASE WHEN how IN ('retry', 'postponed') THEN now + delay END,
        ended_at = CASE WHEN how IN ('done', 'dead') THEN now END,
        error = coalesce(run.error, one.error),
        event = CASE WHEN how <> 'done' THEN event END,
        job = CASE how WHEN 'released' THEN gen_random_uuid() END,
        worker = NULL
      FROM json_to_recordset(input)
        AS run (key bigint, job uuid, how text, delay bigint, alone boolean, error text, attempt integer)
      WHERE one.key = run.key AND one.job = run.job AND one.state = 'running' AND one.worker = who
      RETURNING handler, ordering_key, one.key, one.job, quarantined, how, run.error, attempt
    ),
    failed AS (
      INSERT INTO b24_receiver.failure (delivery, attempt, at, error)
      SELECT key, attempt, now, error FROM ended WHERE how IN ('retry', 'dead') AND error IS NOT NULL
    )
    SELECT handler, ordering_key, key, job, quarantined, how FROM ended
  LOOP
    RETURN NEXT;
    IF how IN ('done', 'dead') THEN
      handlers := array_append(handlers, handler);
      ordering_keys := array_append(ordering_keys, ordering_key);
    END IF;
  END LOOP;
  RETURN QUERY SELECT false, * FROM b24_receiver.promote(handlers, ordering_keys, given);
END $$;
`
