-- What is kept of each changing call. actor: the token's name, token: its id, role: its kind. outcome:
-- 'unknown' until the call ended; error: the code of a refusal. detail: what was before and after, as JSON.
ALTER TABLE audit ADD COLUMN token TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN role TEXT NOT NULL DEFAULT 'owner';
ALTER TABLE audit ADD COLUMN org TEXT;
ALTER TABLE audit ADD COLUMN app TEXT;
ALTER TABLE audit ADD COLUMN error TEXT;
CREATE INDEX audit_refused ON audit (id) WHERE outcome = 'refused';
