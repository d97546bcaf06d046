"""Where runs keep their files: a folder or a bucket, and what lies where in it."""
