-- Which connections an app's machines may take and open. body: the policy as JSON.
CREATE TABLE network_policies (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (app, name)
) STRICT;

-- Apps with machines that may not be held to what their policies say now. mark: of the latest change.
CREATE TABLE unsettled_policies (
    app TEXT PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    mark TEXT NOT NULL
) STRICT;
