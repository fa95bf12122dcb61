-- What a release was asked for beside its file; it becomes the app's own when the release is in place.
ALTER TABLE releases ADD COLUMN asked TEXT NOT NULL DEFAULT '{}';
