-- Every statement of the store, by name. A line `-- name: what it does` begins each.

-- add_job: a new job at the end of the order
INSERT INTO jobs (id, kind, state, target, spec, request_id, create_time)
VALUES (:id, :kind, :state, :target, :spec, :request_id, :create_time);

-- job: one job
SELECT * FROM jobs WHERE id = :id;

-- job_by_request: the job that a request id started
SELECT * FROM jobs WHERE request_id = :request_id AND request_id <> '';

-- jobs: newest first, those before a job, or all
SELECT * FROM jobs
WHERE :before IS NULL OR number < (SELECT number FROM jobs WHERE id = :before)
ORDER BY number DESC;

-- unfinished_jobs: those that wait, run or are held, oldest first
SELECT * FROM jobs WHERE state IN ('queued', 'running', 'interrupted', 'paused') ORDER BY number;

-- failed_preparations: of each dataset the last preparation that has ended, where it has failed
SELECT * FROM jobs AS one
WHERE kind = 'prepare' AND state = 'failed' AND NOT EXISTS (
  SELECT 1 FROM jobs
  WHERE kind = 'prepare' AND target = one.target AND number > one.number AND state IN ('succeeded', 'failed', 'cancelled')
);

-- failures_of: every preparation of a dataset that has failed
SELECT * FROM jobs WHERE kind = 'prepare' AND state = 'failed' AND target = :target;

-- update_job: the next state of a job
UPDATE jobs
SET state = :state, start_time = :start_time, end_time = :end_time, attempts = :attempts, error = :error, result = :result
WHERE id = :id;

-- set_progress: the newest training progress of a job
UPDATE jobs SET progress = :progress WHERE id = :id;

-- next_sequence: counts a job's events up by one, also where the count was damaged
UPDATE jobs SET last_sequence = 1 + max(CAST(last_sequence AS INTEGER), coalesce(
  (SELECT sequence FROM events WHERE job_id = :id AND typeof(sequence) = 'integer' ORDER BY sequence DESC LIMIT 1), 0))
WHERE id = :id RETURNING last_sequence;

-- add_event: an event of a job
INSERT INTO events (job_id, sequence, time, kind, body) VALUES (:job_id, :sequence, :time, :kind, :body);

-- events: a job's events after a number
SELECT * FROM events WHERE job_id = :job_id AND sequence > :after AND typeof(sequence) = 'integer' ORDER BY sequence LIMIT :limit;

-- add_item: a published dataset, adapter or model
INSERT INTO library (kind, name, revision, job_id, record) VALUES (:kind, :name, :revision, :job_id, :record);

-- item: one revision
SELECT * FROM library WHERE kind = :kind AND name = :name AND revision = :revision;

-- newest_item: the newest revision of a name
SELECT * FROM library WHERE kind = :kind AND name = :name ORDER BY revision DESC LIMIT 1;

-- revisions_of: every revision of a name
SELECT * FROM library WHERE kind = :kind AND name = :name ORDER BY revision;

-- items: newest first, of a name or of all, those before an item, or all
SELECT * FROM library
WHERE kind = :kind AND (:name = '' OR name = :name) AND (:before IS NULL OR number < :before)
ORDER BY number DESC;

-- newest_items: newest first, of each name its newest revision
SELECT * FROM library AS one
WHERE kind = :kind AND (:before IS NULL OR number < :before)
  AND revision = (SELECT max(revision) FROM library WHERE kind = one.kind AND name = one.name)
ORDER BY number DESC;

-- item_by_job: what a job made
SELECT * FROM library WHERE job_id = :job_id AND job_id <> '' ORDER BY number DESC LIMIT 1;

-- names: the names of a kind, newest first
SELECT name FROM library WHERE kind = :kind GROUP BY name ORDER BY max(number) DESC LIMIT :limit;

-- every_item: all that is published, of every kind
SELECT * FROM library;

-- places: which revisions are published, of every kind
SELECT kind, name, revision FROM library;

-- replace_record: what is known of one item, written anew
UPDATE library SET record = :record WHERE number = :number;

-- remove_item: one revision
DELETE FROM library WHERE kind = :kind AND name = :name AND revision = :revision;

-- forget_item: one row that cannot be read
DELETE FROM library WHERE number = :number;

-- last_revision: the highest number ever given to a name
SELECT CAST(last AS INTEGER) AS last FROM revisions WHERE kind = :kind AND name = :name;

-- raise_revision: at least this number was given
INSERT INTO revisions (kind, name, last) VALUES (:kind, :name, :last)
ON CONFLICT (kind, name) DO UPDATE SET last = max(CAST(last AS INTEGER), excluded.last);

-- remember: a small setting
INSERT INTO memory (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- recall: a small setting
SELECT value FROM memory WHERE key = :key;
